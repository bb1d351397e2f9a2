"""Decoded frames to twice their size: a causal, streaming U-Net in pixel space, trained by flow matching.

What is generated is the residual over bicubic interpolation, in units of ``noise``: the flow starts at
bicubic + noise * epsilon and ends at the recorded picture (Albergo et al. 2023, arXiv:2310.03725, couple data
to its corruption the same way; the straight path is rectified flow, arXiv:2209.03003). The network predicts the
clean residual: the guess that needs no looking (a share of the noisy one, as in EDM, arXiv:2206.00364) and its
correction. At the start the noise says nothing of the picture and is not looked at, so a single step gives the
expected picture whatever the seed; more steps sharpen it. A mean flow looks at it, and samples in a single step.

The tokenizer lost small things that the scene state still knows, so bodies are painted onto a grid (frame by
frame, between the two states of a step) and light and camera modulate every block. Spatial layers see one
frame; the temporal ones keep the few frames they reach in a :class:`StreamingCache` for each denoising step,
because at each step the features differ. No normalisation pools over places or frames. So a stream of steps
equals the whole clip, memory is constant, and no blending of chunks is needed (StreamingT2V,
arXiv:2403.14773, blends because its attention is not causal).

Dimension keys: b row of the batch, t pixel frame, h w patch cell, c channel.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from tokenizer.causal_conv import StreamingCache, pick
from tokenizer.scene import StateMotion, StateReader, composite, scene_renderer
from tokenizer.state_embedding import StateInputs
from tokenizer.state_schema import StateSchema
from worldmodel.frame_noise import FrameNoise
from worldmodel.upsampler_network import Conditions, UNet, UpsamplerConfig, convolve, from_patches, to_patches


@dataclass
class UpsamplerCache:
    """A stream's past: for every denoising step the temporal layers' frames, and each row's next absolute frame.

    Where a picture may be locked, also what is shown and the small frame that it was last drawn for, place by place.
    """

    frame: Tensor  # int64 (B,)
    passes: list[StreamingCache] = field(default_factory=list)
    shown: Tensor | None = None  # uint8 (B, H, W, 3)
    drawn_for: Tensor | None = None  # float (B, h, w, 3), infinite where nothing is shown yet

    def fork(self, rows: Tensor | None = None) -> UpsamplerCache:
        """An independent copy of all rows, or of these. What is shown is replaced, never written into."""
        frame, shown, drawn_for = (
            None if x is None else pick(x, rows) for x in (self.frame, self.shown, self.drawn_for)
        )
        assert frame is not None
        return UpsamplerCache(frame.clone(), [cache.fork(rows) for cache in self.passes], shown, drawn_for)

    def packed(self, places: Mapping[nn.Module, str]) -> tuple[Any, ...]:
        """To be kept without the modules: by their names."""
        return self.frame, [cache.packed(places) for cache in self.passes], self.shown, self.drawn_for

    @classmethod
    def unpacked(cls, packed: tuple[Any, ...], modules: Mapping[str, nn.Module]) -> UpsamplerCache:
        frame, passes, shown, drawn_for = packed
        return cls(frame, [StreamingCache.unpacked(one, modules) for one in passes], shown, drawn_for)

    def reset(self, rows: Sequence[int] | Tensor, first_frame: int = 0) -> None:
        """Begins these rows anew: their next frame is ``first_frame`` and has no past."""
        rows = torch.as_tensor(rows, device=self.frame.device)
        self.frame[rows] = first_frame
        for cache in self.passes:
            cache.reset(rows)
        if self.drawn_for is not None:
            self.drawn_for = self.drawn_for.index_fill(0, rows.long(), torch.inf)


class Upsampler(nn.Module):
    """Predicts large frames from small ones and the scene state. ``schema`` None means a world without state."""

    def __init__(self, config: UpsamplerConfig, schema: StateSchema | None = None) -> None:
        super().__init__()
        self.config, self.schema = config, schema
        self.num_values = schema.num_values if schema else 0
        self.noise = FrameNoise()
        self.motion = StateMotion(schema, held=("light",)) if schema and self.num_values else None
        # What a state says of the scene as a whole: what belongs to no body, or all of it where nothing is placed.
        self.read = self.inputs = None
        if schema is not None and self.num_values:
            self.read = StateReader(schema) if schema.view is not None else None
            self.inputs = StateInputs(schema) if schema.view is None else None
        width, side = config.width, config.patch // config.factor

        self.layer = scene_renderer(schema, config.size, hidden=config.shader_width, edge=config.edge)
        num_scene = self.read.num_scene if self.read else self.inputs.size if self.inputs else 0
        self.scene = nn.Linear(num_scene, config.condition) if num_scene else None
        self.see_frames = nn.Conv2d(3 * side**2, width, 3, padding=1)
        self.see_drawn = nn.Conv2d(3 * config.patch**2, width, 1)
        self.experts = nn.ModuleList(UNet(config) for _ in range(config.experts))
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    # -- the network ----------------------------------------------------------------------------------

    def conditions(
        self, frames: UInt8[Tensor, "B T h w 3"], states: Float[Tensor, "B T F"] | None = None
    ) -> Conditions:
        """Computes once what every denoising step is told.

        Args:
            frames: uint8 (B, T, h, w, 3).
            states: (B, T, num_values), at every pixel frame (see :meth:`frame_states`).
        """
        kind, small = self.see_drawn.weight.dtype, self.config.patch // self.config.factor
        low = frames.permute(0, 1, 4, 2, 3).to(kind) / 127.5 - 1
        large = F.interpolate(low.flatten(0, 1), scale_factor=self.config.factor, mode="bicubic")
        low_large = large.unflatten(0, frames.shape[:2])
        cells = convolve(self.see_frames, to_patches(low, small))
        scene = low.new_zeros(*frames.shape[:2], self.config.condition)
        if states is not None:
            every = states.to(kind).flatten(0, 1)
            if self.layer is not None:
                large = composite(large, self.layer(every))
            if self.scene is not None:
                told = self.read.scene(every) if self.read else self.inputs(every)[:, :-1] if self.inputs else every
                scene = scene + self.scene(told.unflatten(0, frames.shape[:2]))
        drawn = large.unflatten(0, frames.shape[:2])
        more = (drawn.detach().to(kind) - low_large) / self.config.noise  # learned by its own error alone
        return Conditions(drawn, cells + convolve(self.see_drawn, to_patches(more, self.config.patch)), scene)

    def denoise(
        self,
        z: Tensor,
        time: Tensor,
        given: Conditions,
        cache: StreamingCache | None = None,
        until: Tensor | None = None,
    ) -> Tensor:
        """The clean residual, as the network sees it in ``z``.

        ``z`` and the result are residual patches (B, T, h, w, 3 * patch**2) as :meth:`residual` cuts them;
        ``time`` (B,) runs from 1, noise alone, to 0, and ``until`` (B,) is where the step ends that is taken with the
        result: at 0 unless given, and told to a mean flow alone. Without a cache the clip is taken to be whole.
        """
        cache = StreamingCache(len(z)) if cache is None else cache

        # What is best said without looking, and how far off that is: the network corrects it in units of one.
        t, detail = time.to(z.dtype).view(-1, 1, 1, 1, 1), self.config.detail
        spread = ((1 - t) ** 2 * detail**2 + t**2).sqrt()
        guess, doubt = (1 - t) * detail**2 / spread**2 * z, t * detail / spread
        seen = z / spread if self.config.mean_flow else guess / detail

        count = len(self.experts)
        chosen = ((1 - time) * count).long().clamp(0, count - 1)  # the first is for the most noise
        if count == 1 or bool((chosen == chosen[0]).all()):
            correction = self.experts[int(chosen[0])](seen, given, time, until, cache)
        else:  # clips at different times, as in training
            correction = torch.zeros_like(seen)
            for i, expert in enumerate(self.experts):
                rows = (chosen == i).nonzero()[:, 0]
                part = Conditions(given.drawn[rows], given.cells[rows], given.scene[rows])
                ends = None if until is None else until[rows]
                if len(rows):
                    made = expert(seen[rows], part, time[rows], ends, StreamingCache(len(rows)))
                    correction = correction.index_copy(0, rows, made.to(correction))
        cache.advance()
        return guess + doubt * correction

    def residual(self, frames: UInt8[Tensor, "B T H W 3"], given: Conditions) -> Float[Tensor, "B T h w patch"]:
        """What uint8 frames (B, T, H, W, 3) have beyond what is drawn, as patches in units of the noise."""
        target = frames.permute(0, 1, 4, 2, 3).to(given.drawn.dtype) / 127.5 - 1
        return to_patches((target - given.drawn) / self.config.noise, self.config.patch)

    def frame_states(self, states: Tensor, num_frames: int) -> Tensor:
        """States of latent frames (B, 1 + n, num_values) to those of their ``num_frames`` = 1 + r * n pixel frames."""
        assert self.motion is not None
        steps = states.shape[1] - 1
        if (num_frames == 1) != (steps == 0) or (steps and (num_frames - 1) % steps):
            raise ValueError(
                f"{num_frames} frames cannot belong to {1 + steps} states: give 1 + r * n frames and 1 + n states"
            )
        if steps == 0:
            return states
        moved = self.motion(states[:, :-1], states[:, 1:], (num_frames - 1) // steps)
        return torch.cat([states[:, :1], moved.flatten(1, 2)], 1)

    # -- pictures -------------------------------------------------------------------------------------

    def start_cache(self, batch: int, first_frame: int = 0) -> UpsamplerCache:
        """The past of ``batch`` streams whose next pixel frame is ``first_frame`` (it names the noise)."""
        device = self.see_drawn.weight.device
        return UpsamplerCache(torch.full((batch,), first_frame, dtype=torch.long, device=device))

    def generate(
        self,
        frames: Tensor,
        states: Tensor | None,
        cache: UpsamplerCache,
        seed: Tensor,
        num_steps: int = 1,
    ) -> Tensor:
        """The next frames of a stream, in any number, unrounded: (B, T, 3, H, W) about [-1, 1].

        ``states`` (B, T, num_values) are as :meth:`conditions` takes them.
        """
        if not cache.passes:
            cache.passes = [StreamingCache(len(frames)) for _ in range(num_steps)]
        if len(cache.passes) != num_steps:
            raise ValueError(
                f"this stream was begun with num_steps={len(cache.passes)} and cannot go on with {num_steps}: "
                "start a new cache to change it"
            )
        given = self.conditions(frames, states)
        z = self._start(given, cache.frame, seed)
        for i, past in enumerate(cache.passes):
            time, until = (z.new_full((len(z),), 1 - j / num_steps) for j in (i, i + 1))
            z = torch.lerp(self.denoise(z, time, given, past, until), z, (num_steps - i - 1) / (num_steps - i))
        cache.frame = cache.frame + frames.shape[1]
        return given.drawn + self.config.noise * from_patches(z, self.config.patch)

    def _start(self, given: Conditions, first_frame: Tensor, seed: Tensor) -> Tensor:
        """The noise of frames from ``first_frame`` (B,) on, as patches."""
        index = first_frame[:, None] + torch.arange(given.cells.shape[1], device=seed.device)
        return to_patches(self.noise(seed[:, None], index, (3, *self.config.size)).to(given.cells), self.config.patch)

    @torch.no_grad()
    def in_chunks(
        self,
        frames: Tensor,
        states: Tensor | None,
        seed: Tensor | int = 0,
        num_steps: int = 1,
        *,
        chunk: int,
        overlap: int = 0,
    ) -> Tensor:
        """A whole clip as models do it that keep no past: chunk by chunk, for comparison with :meth:`forward`.

        Every chunk of ``chunk`` frames also makes the ``overlap`` frames before it; from one denoising step to the next
        a random cut in them says which chunk's prediction is taken, over noise that both share (the randomised
        blending of StreamingT2V, arXiv:2403.14773). With ``overlap`` 0 chunks just follow each other.
        """
        seed = torch.as_tensor(seed, device=frames.device).expand(len(frames))
        self._check(frames, seed, num_steps)
        moved, length = None, frames.shape[1]
        if self.motion is not None:
            moved = self.frame_states(self._check_state(states, len(frames), clip=True), length)
        given = self.conditions(frames, moved)
        z = self._start(given, torch.zeros_like(seed), seed)
        draw = torch.Generator().manual_seed(int(seed[0]))
        for i in range(num_steps):
            time, until = (z.new_full((len(z),), 1 - j / num_steps) for j in (i, i + 1))
            clean = z[:, :0]
            for start in range(0, length, chunk):
                piece = slice(max(0, start - overlap), start + chunk)
                seen = Conditions(given.drawn[:, piece], given.cells[:, piece], given.scene[:, piece])
                made = self.denoise(z[:, piece], time, seen, None, until)
                cut = start - int(torch.randint(overlap + 1, (), generator=draw)) if start else 0
                clean = torch.cat([clean[:, :cut], made[:, cut - piece.start :]], 1)
            z = torch.lerp(clean, z, (num_steps - i - 1) / (num_steps - i))
        return self.to_pixels(given.drawn + self.config.noise * from_patches(z, self.config.patch))

    @torch.no_grad()
    def step(
        self,
        frames: Tensor,
        state: Tensor | None,
        previous_state: Tensor | None,
        cache: UpsamplerCache,
        seed: Tensor,
        num_steps: int = 1,
        lock: float = 0.0,
    ) -> Tensor:
        """One step of a stream: uint8 (B, r, h, w, 3) to uint8 (B, r, H, W, 3).

        Args:
            frames: the step's pixel frames; a single one for a stream's first step.
            state: (B, num_values), at the last of them. None for a world without state.
            previous_state: (B, num_values), at the end of the step before, as it stood when the frames were
                made (that is, after an edit). None where there is no step before.
            cache: from :meth:`start_cache`; changed in place.
            seed: int64 (B,), per row.
            num_steps: denoising steps, 1 to 4 make sense; the same for all of a stream.
            lock: grey levels. A place keeps what it shows until its small frame, or that of a place beside it, has
                changed by more since it was drawn: what stands still then does not flicker. 0 locks nothing.

        Raises:
            ValueError: for a wrong shape, or a ``num_steps`` other than the stream was begun with.
        """
        self._check(frames, seed, num_steps)
        states = None
        if self.motion is not None:
            state = self._check_state(state, len(frames))
            previous_state = state if previous_state is None else self._check_state(previous_state, len(frames))
            states = self.motion(previous_state, state, frames.shape[1])
        if len(cache.frame) != len(frames):
            raise ValueError(f"the cache holds {len(cache.frame)} streams, got {len(frames)} rows of frames")
        made = self.to_pixels(self.generate(frames, states, cache, seed, num_steps))
        return self._locked(made, frames, cache, lock) if lock else made

    def _locked(self, made: Tensor, frames: Tensor, cache: UpsamplerCache, lock: float) -> Tensor:
        """``made`` where frames changed, and elsewhere what was shown before."""
        factor, out = self.config.factor, []
        for small, large in zip(frames.unbind(1), made.unbind(1), strict=True):
            if cache.drawn_for is None or cache.shown is None:
                cache.drawn_for, cache.shown = torch.full_like(small, torch.inf, dtype=torch.float), large
            change = (small - cache.drawn_for).abs().amax(-1)
            moved = F.max_pool2d((change > lock).float(), 3, 1, 1)[..., None].bool()
            cache.drawn_for = torch.where(moved, small.float(), cache.drawn_for)
            cells = moved.repeat_interleave(factor, 1).repeat_interleave(factor, 2)
            cache.shown = torch.where(cells, large, cache.shown)
            out.append(cache.shown)
        return torch.stack(out, 1)

    @torch.no_grad()
    def forward(
        self,
        frames: Tensor,
        states: Tensor | None = None,
        seed: Tensor | int = 0,
        num_steps: int = 1,
        first_frame: int = 0,
    ) -> Tensor:
        """A whole clip, as the steps of a stream would give it.

        uint8 (B, 1 + r * n, h, w, 3) and states (B, 1 + n, num_values) to uint8 (B, 1 + r * n, H, W, 3).
        """
        seed = torch.as_tensor(seed, device=frames.device).expand(len(frames))
        self._check(frames, seed, num_steps)
        moved = None
        if self.motion is not None:
            states = self._check_state(states, len(frames), clip=True)
            moved = self.frame_states(states, frames.shape[1])
        cache = self.start_cache(len(frames), first_frame)
        return self.to_pixels(self.generate(frames, moved, cache, seed, num_steps))

    @staticmethod
    def to_pixels(video: Float[Tensor, "B T 3 H W"]) -> UInt8[Tensor, "B T H W 3"]:
        """(B, T, 3, H, W) about [-1, 1] to uint8 (B, T, H, W, 3)."""
        return ((video + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).movedim(2, -1)

    def _check(self, frames: Tensor, seed: Tensor, num_steps: int) -> None:
        height, width = self.config.small_size
        if frames.dtype != torch.uint8 or frames.dim() != 5 or frames.shape[2:] != (height, width, 3):
            raise ValueError(
                f"this upsampler takes uint8 frames (rows, frames, {height}, {width}, 3), "
                f"got {frames.dtype} {tuple(frames.shape)}: resize or convert them first"
            )
        if seed.shape != frames.shape[:1] or seed.dtype != torch.int64:
            raise ValueError(f"seed must be int64 of shape ({len(frames)},), one a row; got {tuple(seed.shape)}")
        if num_steps < 1:
            raise ValueError(f"num_steps must be at least 1, got {num_steps}")

    def _check_state(self, state: Tensor | None, rows: int, *, clip: bool = False) -> Tensor:
        if state is None:
            raise ValueError(f"this upsampler is told the scene state: pass {self.num_values} values a row")
        if state.dim() != 2 + clip or state.shape[0] != rows or state.shape[-1] != self.num_values:
            wanted = f"({rows}, {'1 + n, ' if clip else ''}{self.num_values})"
            raise ValueError(f"the scene state must have shape {wanted}, got {tuple(state.shape)}")
        return state
