"""A running world: action in, state simulated, picture drawn, for ever.

Every step first samples the next scene state and then the picture that shows it. The state can be read after
any step and written before the next one; a rollout can be copied, rewound and branched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from tokenizer.causal_conv import StreamingCache
from worldmodel.engines.torch_engine import Engine, Sampling
from worldmodel.kv_cache import Past, StepCache, pass_bias, turn
from worldmodel.sampling import sample, uniforms
from worldmodel.steering import FREE
from worldmodel.transformer import KeysValues

if TYPE_CHECKING:
    from worldmodel.world import World

Action = int | str | Sequence[int] | Sequence[str] | Tensor | np.ndarray


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one action led to.

    frames: uint8 (B, r, H, W, 3); state: float32 (B, num_values) in the schema's units; reward: float32 (B,);
    terminated: bool (B,); upsampled: uint8 (B, r, 2H, 2W, 3), or None when the upsampler is off.
    """

    frames: Tensor
    state: Tensor
    reward: Tensor
    terminated: Tensor
    upsampled: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What a row starts from. ``frames`` uint8 (1 + r * n, H, W, 3).

    Everything left out is sampled to go with what is given: of a ``state`` told in part, the rest.
    ``hold`` and ``limit`` are as ``Rollout.hold`` and ``Rollout.limit`` take them; the first state keeps to them too.
    """

    caption: str = ""
    seed: int = 0
    state: Tensor | Mapping[str, Mapping[str, Any]] | None = None
    frames: Tensor | None = None
    hold: Mapping[str, Mapping[str, Any]] | None = None
    limit: Mapping[str, Mapping[str, Any]] | None = None


@dataclass(frozen=True)
class Snapshot:
    """Everything a rollout is at one moment. Opaque: give it to ``Rollout.restore``."""

    rollout: Rollout


class Rollout:
    """A batch of running worlds. Made by :meth:`World.start`.

    Attributes:
        state: float32 (B, num_values), the state that the next step starts from.
        frames: uint8 (B, 1 or r, H, W, 3), the last pictures.
        captions: one per row.
        time: steps since the start (of row 0's batch, not of a row reset later).
        upsample: whether steps also give upsampled frames.
    """

    SCENE_TRIES = 8  # draws of where everything is, until no body stands in another

    def __init__(
        self, world: World, beginnings: Sequence[Beginning], sampling: Sampling, *, upsample: bool = False
    ) -> None:
        self.world = world
        dynamics, batch = world.dynamics, len(beginnings)
        chosen = {}
        for name, modes in (
            ("tokens_per_pass", dynamics.config.tokens_per_pass),
            ("state_tokens_per_pass", dynamics.state_modes),
        ):
            k = chosen[name] = getattr(sampling, name) or modes[0]
            if k not in modes:
                known = ", ".join(map(str, modes))
                raise ValueError(f"this world was not trained for {k} {name.replace('_', ' ')}; choose from {known}")
        self.sampling = replace(sampling, **chosen)
        self.time = 0
        self.captions = [""] * batch
        self._events = [""] * batch  # what the next step is told
        self.generators = [torch.Generator() for _ in beginnings]
        self.cache = StepCache(dynamics, batch, clock=1)
        self.pixels: StreamingCache = world.tokenizer.start_cache(batch)
        self.state = torch.zeros(batch, world.schema.num_values, device=world.device)
        self._shown = self.state.clone()  # the state that the last picture shows; an edit leaves it alone
        self._state_ids = torch.full((batch, len(world.schema.slots)), -1, device=world.device)
        self._video = torch.full((batch, dynamics.layout.num_video), -1, device=world.device)
        size = world.tokenizer.resolution
        self.frames = torch.zeros(batch, 1, size, size, 3, dtype=torch.uint8, device=world.device)
        self.upsample = upsample
        self._seeds = torch.zeros(batch, dtype=torch.long, device=world.device)
        self._upsampling: Any = None
        self._large: Tensor | None = None  # the last upsampled picture (B, 2H, 2W, 3), if there is one
        self._limits = world.limiter.free(batch, world.schema.num_values).to(world.device)
        self._locked = torch.zeros(batch, dynamics.layout.num_video, dtype=torch.bool, device=world.device)
        self._steered = False  # whether any row is held, limited or locked
        self._begin(list(range(batch)), beginnings)

    def __len__(self) -> int:
        return len(self.captions)

    # -- people's verbs -----------------------------------------------------------------------------

    def step(self, action: Action | None = None) -> Step:
        """Takes one action per row (an index, a name, or one for each row) and shows what it leads to.

        A world that takes no actions goes on by itself with None. Raises ValueError for an unknown action or a
        wrong number of them.
        """
        if action is None and not len(self.world.actions):
            action = torch.full((len(self),), -1)
        else:
            action = self.world.actions.batch(action, len(self))
        with self.world.engine.computing():
            with torch.inference_mode():  # a step is many small operations, each a little cheaper so
                begun = self._advance(action.to(self.world.device))
            self._leave_inference_mode()  # still there: copies, too, would wake PyTorch's other threads
        with torch.inference_mode():
            upsampled = self._upsampled(begun)
        return Step(
            frames=self.frames,
            state=self._shown,
            reward=self._role("reward"),
            terminated=self._role("terminated") > 0.5,
            upsampled=None if upsampled is None else upsampled.clone(),
        )

    def _advance(self, actions: Tensor) -> Tensor:
        """Simulates and draws one step. Returns the state that it began from."""
        world, layout = self.world, self.world.dynamics.layout
        cos, sin = world.dynamics.positions(torch.tensor(self.cache.clock), layout.step_place)
        chance = uniforms(self.generators, layout.num_state + layout.num_video, world.device)
        steering = (self._limits, torch.where(self._locked, self._video, -1)) if self._steered else ()
        made = world.engine.step(
            self.sampling, self.cache.past(), self.cache.turn(self.cache.clock), actions, self._state_ids, self.state,
            self._shown, self._video, cos, sin, chance, *steering,
        )  # fmt: skip
        self.cache.commit(made.kept)
        if any(self._events):
            self._events = [""] * len(self)
            self.cache.forget_events()
        begun, self._shown = self.state, made.state  # an edited state is begun from, though no picture showed it
        self.state, self._state_ids, self._video = made.state, made.ids, made.video
        self.time += 1
        frames = world.engine.decode(made.video.unflatten(1, layout.grid), self.pixels, made.state, begun)
        self.frames = self._with_locked(frames, self.frames[:, -1])  # the state is drawn there too
        return begun

    def _leave_inference_mode(self) -> None:
        """Gives out what may be written into and learned from."""
        for name in ("state", "_shown", "_state_ids", "_video", "frames"):
            setattr(self, name, getattr(self, name).clone())

    def edit(self, changes: Mapping[str, Mapping[str, Any]], row: int | None = None) -> None:
        """Writes the state: ``{"player": {"position": (0.1, 0.2)}}``. The next frames follow.

        Works on every row, or on one. Raises ValueError for unknown names and values out of range.
        """
        rows = self._rows(row)
        before = self.state[rows]
        after = self.world.schema.write(before, changes)
        self.state = self.state.clone()
        self.state[rows] = after
        static = [slot.columns.start for slot in self.world.schema.static_slots]
        if bool((before[:, static] != after[:, static]).any()):
            self._rewrite_header(list(range(len(self)))[rows])

    def tell(self, event: str, row: int | None = None) -> None:
        """Tells the next step, and it alone, what happens: ``"everything slows down"``. Empty: nothing.

        Every row, or one; what was told before and has not happened yet is replaced. It is a condition, as a caption
        is: what the world was trained on, it does. Raises ValueError for a text that is too long, and in a world
        that was not trained to be told anything in mid-stream.
        """
        rows = list(range(len(self)))[self._rows(row)]
        self.world.encode_events([event])
        for i in rows:
            self._events[i] = event
        self._rewrite_header(rows)

    def hold(self, fields: Mapping[str, Mapping[str, Any]], row: int | None = None) -> None:
        """Keeps fields at a value in every step from the next one on: ``{"light": {"angle": 0.3}}``.

        The state is sampled and kept to the value before anything is drawn, so pictures show it; everything else goes
        on as the model has learned. In every row, or in one. Whatever was held or limited of the same fields before
        is replaced; an edit of them lasts until the next step. Raises ValueError as ``edit`` does, and for fields that
        never change.
        """
        self._write_limits(self.world.limiter.hold, fields, row)

    def limit(self, fields: Mapping[str, Mapping[str, Any]], row: int | None = None) -> None:
        """Keeps fields within (low, high): ``{"player": {"position": ((-0.2, -0.2), (0.2, 0.2))}}``.

        Each end is a value of the field; of a periodic field they are an arc's, going up from low, if need be across
        the wrap. What is sampled outside is brought to the nearer end before anything is drawn, as by a wall, from the
        next step on. In every row, or in one; replaces what was held or limited of the same fields. Raises ValueError
        as ``hold`` does, for fields that are no quantities, and for ends in the wrong order.
        """
        self._write_limits(self.world.limiter.limit, fields, row)

    def release(self, fields: Mapping[str, str | Iterable[str]] | None = None, row: int | None = None) -> None:
        """Holds and limits no more, whatever it is or what is named: ``{"light": ["angle"]}``. In every row, or in one.

        Raises ValueError for unknown names.
        """
        if fields is None:
            fields = {e.name: [f.name for f in e.fields if not f.static] for e in self.world.schema.entities}
        self._write_limits(self.world.limiter.release, fields, row)

    def lock(self, cells: Tensor | np.ndarray, row: int | None = None) -> None:
        """Keeps a region of the picture as it is now: its ids are copied from step to step, and its pixels with them.

        The state goes on behind it. Upsampled pictures are kept there too; those that were not upsampled before are
        enlarged (bicubic). In every row, or in one; adds to what is locked already.

        Args:
            cells: bool, (h, w) on the latent grid, or (H, W) in pixels, that lock every cell they touch.

        Raises ValueError for any other mask.
        """
        grid, size, rows = self.world.dynamics.layout.grid, self.world.tokenizer.resolution, self._rows(row)
        mask = torch.as_tensor(cells)
        if mask.dtype != torch.bool or mask.shape not in (grid, (size, size)):
            raise ValueError(
                f"lock takes a bool mask, {grid} of cells or {(size, size)} of pixels, "
                f"got {mask.dtype} {tuple(mask.shape)}"
            )
        if mask.shape != grid:
            mask = mask.unflatten(1, (grid[1], -1)).unflatten(0, (grid[0], -1)).any(-1).any(1)
        locked = self._locked.clone()
        locked[rows] |= mask.flatten().to(locked.device)
        self._steer(self._limits, locked)

    def unlock(self, row: int | None = None) -> None:
        """Lets every locked region go on, in every row, or in one."""
        rows, locked = self._rows(row), self._locked.clone()
        locked[rows] = False
        self._steer(self._limits, locked)

    def snapshot(self) -> Snapshot:
        """The rollout as it is now, to come back to."""
        return Snapshot(self.fork())

    def restore(self, snapshot: Snapshot) -> None:
        """Goes back to a snapshot; what follows is the same again for the same actions."""
        if snapshot.rollout.world is not self.world or len(snapshot.rollout) != len(self):
            raise ValueError(
                "this snapshot is of another world or batch size: restore it into the rollout it came from"
            )
        upsample = self.upsample
        self.__dict__.update(snapshot.rollout.fork().__dict__)
        self.upsample = upsample

    def fork(self) -> Rollout:
        """An independent copy that goes its own way from here."""
        twin = object.__new__(Rollout)
        twin.__dict__.update(self.__dict__)
        twin.cache, twin.pixels = self.cache.clone(), self.pixels.clone()
        twin.generators = [g.clone_state() for g in self.generators]
        twin.captions, twin._events = list(self.captions), list(self._events)
        twin._upsampling = None if self._upsampling is None else self._upsampling.clone()
        for name in ("state", "_shown", "_state_ids", "_video", "frames", "_seeds"):
            setattr(twin, name, getattr(self, name).clone())
        return twin

    def reset_rows(self, rows: Sequence[int], beginnings: Sequence[Beginning]) -> None:
        """Starts some rows anew while the others go on undisturbed. ``frames`` then shows their first picture.

        What was held, limited and locked in them is so no more.
        """
        if len(rows) != len(beginnings):
            raise ValueError(f"{len(rows)} rows need as many beginnings, got {len(beginnings)}")
        self._begin(list(rows), beginnings)

    def describe(self, row: int = 0) -> dict[str, dict[str, Any]]:
        """One row's state by entity and field."""
        return self.world.schema.to_dict(self.state[row])

    # -- beginnings ---------------------------------------------------------------------------------

    def _begin(self, rows: list[int], beginnings: Sequence[Beginning]) -> None:
        with torch.inference_mode():
            self._begin_rows(rows, beginnings)
        self._leave_inference_mode()

    def _begin_rows(self, rows: list[int], beginnings: Sequence[Beginning]) -> None:
        world, layout = self.world, self.world.dynamics.layout
        generators = [torch.Generator().manual_seed(b.seed) for b in beginnings]
        index = torch.tensor(rows, device=world.device)
        text = world.encode_captions([b.caption for b in beginnings])

        values = torch.zeros(len(rows), world.schema.num_values, device=world.device)
        video = torch.full((len(rows), layout.num_video), -1, device=world.device)
        parts = torch.full_like(values, torch.nan)  # of states that are told in part
        pictures: dict[int, Tensor] = {}
        for i, beginning in enumerate(beginnings):
            if beginning.frames is not None:
                ids = world.tokenizer.encode(world.checked_frames(beginning.frames)[None])[0].flatten(1)
                pictures[i], video[i] = ids, ids[-1]
            if isinstance(beginning.state, Tensor):
                values[i] = world.checked_state(beginning.state)
            elif beginning.frames is not None and world.schema.num_values:
                values[i] = world.estimate(beginning.frames)[0]
            if isinstance(beginning.state, Mapping):
                parts[i] = world.schema.write(parts[i], beginning.state)
        drawn = [i for i, b in enumerate(beginnings) if b.frames is None and not isinstance(b.state, Tensor)]
        if drawn:
            values[drawn] = self._sample_scene(text[drawn], parts[drawn], [generators[i] for i in drawn])
        values = torch.where(parts.isnan(), values, parts)
        limits = world.limiter.free(len(rows), world.schema.num_values).to(world.device)
        for i, beginning in enumerate(beginnings):
            limits[i] = world.limiter.hold(world.limiter.limit(limits[i], beginning.limit or {}), beginning.hold or {})
        values = world.limiter.keep(values, limits)

        header_ids, header_kv = self._header(text, values)
        seen = header_ids != layout.vocabulary.special("pad")
        born = self.cache.clock - 1
        past = self._header_past(header_kv, seen, born)
        nothing = torch.full((len(rows),), -1, device=world.device)
        state_ids, state_kv = self._first_state(past, born, nothing, values)
        cos, sin = world.dynamics.positions(torch.tensor(born), layout.step_place)
        chance = uniforms(generators, layout.num_video, world.device)
        first, whole = Engine(world).draw(
            self.sampling, past, state_kv, nothing, torch.full_like(video, -1), values, values, cos, sin, chance, video
        )
        # Nothing is changed before here: a beginning that is refused leaves the rows as they were.
        for row, beginning, generator in zip(rows, beginnings, generators, strict=True):
            self.captions[row], self._events[row], self.generators[row] = beginning.caption, "", generator
        self._seeds[index] = torch.tensor([b.seed for b in beginnings], device=world.device)
        self.cache.begin(index, header_kv, seen, whole)
        self.state, self._shown = self.state.clone(), self._shown.clone()
        self.state[index], self._shown[index] = values, values
        self._state_ids, self._video = self._state_ids.clone(), self._video.clone()
        self._state_ids[index], self._video[index] = state_ids, first
        self._steer(self._limits.index_copy(0, index, limits), self._locked.index_fill(0, index, False))
        self._show_first(rows, first, pictures, values)

    def _show_first(self, rows: list[int], video: Tensor, pictures: dict[int, Tensor], values: Tensor) -> None:
        """Decodes the first pictures, and before them whatever frames a row was started from (of unknown states)."""
        tokenizer, grid = self.world.tokenizer, self.world.dynamics.layout.grid
        fresh = tokenizer.start_cache(len(rows))
        longest = max([len(p) for p in pictures.values()], default=1)
        decoded = None
        for t in range(longest):
            back = longest - t  # a row with a shorter past starts when it begins: until then it shows its first frame
            now = [
                pictures[i][max(0, len(pictures[i]) - back)] if i in pictures else video[i] for i in range(len(rows))
            ]
            late = [i for i in range(len(rows)) if len(pictures.get(i, video[:1])) == back]
            fresh.reset(late)
            state = values if back == 1 else None
            decoded = tokenizer.decode_step(torch.stack(now).unflatten(1, grid), fresh, state)
        assert decoded is not None
        self.pixels.adopt(fresh, rows)
        frames = self.frames[:, -1:].clone()
        frames[rows] = decoded[:, -1:]
        self.frames = frames
        if self._upsampling is not None:
            self._upsampling.reset(rows)
        if self._large is not None:
            self._large = self._large.clone()
            self._large[rows] = self._enlarged(frames[rows, -1])

    def _header(self, text: Tensor, values: Tensor, event: Tensor | None = None) -> tuple[Tensor, KeysValues]:
        dynamics = self.world.dynamics
        ids = dynamics.layout.pack_header(text, self.world.schema.encode(values, "static"), event)
        cos, sin = dynamics.positions(torch.tensor(0), dynamics.layout.header_place)
        _, kept = dynamics.core(dynamics.embed_header(ids), cos, sin, [], dynamics.header_bias(ids))
        return ids, kept

    def _header_past(self, header: KeysValues, seen: Tensor, step: int) -> Past:
        return Past([turn(header, *self.cache.turn(step))], [], seen)

    @torch.inference_mode()
    def _rewrite_header(self, rows: list[int]) -> None:
        index = torch.tensor(rows, device=self.world.device)
        text = self.world.encode_captions([self.captions[row] for row in rows])
        event = self.world.encode_events([self._events[row] for row in rows])
        ids, kept = self._header(text, self.state[index], event)
        dynamics = self.world.dynamics
        seen = ids != dynamics.layout.vocabulary.special("pad")
        self.cache.replace_header(index, kept, seen, dynamics.hear(event))

    def _sample_scene(self, text: Tensor, parts: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Draws a scene id by id, first what it consists of and then where everything is, (n, num_values).

        ``parts`` (n, num_values) are taken as they are where they are numbers; what comes after them knows them.
        """
        world, dynamics, layout, schema = self.world, self.world.dynamics, self.world.dynamics.layout, self.world.schema
        values = torch.zeros(len(text), schema.num_values, device=world.device)
        if not schema.num_values:
            return values
        temperature = self.sampling.scene_temperature
        static = dynamics.static_range[:, 0].expand(len(text), -1).clone()
        cos, sin = dynamics.positions(torch.tensor(0), layout.header_place)
        start = layout.vocabulary.span("state").start
        texts = self._guiding(text)
        known, said = self._given(parts, "static")
        for i, (low, high) in enumerate(dynamics.static_range.tolist()):
            ids = layout.pack_header(texts, static.repeat(len(texts) // len(text), 1))
            hidden, _ = dynamics.core(dynamics.embed_header(ids), cos, sin, [], dynamics.header_bias(ids))
            logits = dynamics.header_head(hidden[:, layout.header_static][:, i : i + 1]).float()
            logits = self._guided(logits[..., start + low : start + high], len(text))
            drawn = low + sample(logits, temperature, uniforms(generators, 1, world.device))[0][:, 0]
            static[:, i] = torch.where(known[:, i], said[:, i], drawn)
        values = schema.decode(static, "static", values)
        open_rows = list(range(len(text)))
        for _ in range(self.SCENE_TRIES):
            chances = [generators[row] for row in open_rows]
            values[open_rows] = self._sample_state(text[open_rows], values[open_rows], parts[open_rows], chances)
            if dynamics.state_painter is None:
                break
            again = dynamics.state_painter.read(values[open_rows]).overlapping.tolist()  # which no scene begins with
            open_rows = [row for row, overlapping in zip(open_rows, again, strict=True) if overlapping]
            if not open_rows:
                break
        return values

    def _given(self, parts: Tensor, coding: Literal["static", "absolute"]) -> tuple[Tensor, Tensor]:
        """Which slots' ids the numbers among values (n, num_values) settle, bool (n, slots), and the ids."""
        schema = self.world.schema
        slots = schema.static_slots if coding == "static" else schema.slots
        known = ~parts[:, [slot.columns.start for slot in slots]].isnan()
        return known, schema.encode(parts.nan_to_num(), coding)

    def _sample_state(self, text: Tensor, values: Tensor, parts: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Draws where everything is at first, for scenes whose static values (n, num_values) are given."""
        world, dynamics, layout = self.world, self.world.dynamics, self.world.dynamics.layout
        texts = self._guiding(text)
        twice = len(texts) // len(text)
        header_ids, header_kv = self._header(texts, values.repeat(twice, 1))
        past = self._header_past(header_kv, header_ids != layout.vocabulary.special("pad"), 0)
        nothing = torch.full((len(texts),), -1, device=world.device)
        ids = dynamics.absolute_range[:, 0].expand(len(text), -1).clone()
        known, said = self._given(parts, "absolute")
        for i in range(layout.num_state):
            hidden, _ = self._state_pass(past, 0, nothing, ids.repeat(twice, 1), values.repeat(twice, 1))
            logits = self._guided(
                dynamics.state_logits(hidden[:, layout.step_state], dynamics.absolute_range), len(text)
            )
            chance = uniforms(generators, 1, world.device)
            drawn = sample(logits[:, i : i + 1], self.sampling.scene_temperature, chance)[0][:, 0]
            ids[:, i] = torch.where(known[:, i], said[:, i], drawn)
        return world.codec.settled(world.schema.decode(ids, "absolute", values))

    def _guiding(self, text: Tensor) -> Tensor:
        """Captions, and where they are to guide more or less than they do, as many empty ones after them."""
        if self.sampling.guidance == 1 or not bool((text >= 0).any()):
            return text
        return torch.cat([text, torch.full_like(text, -1)])

    def _guided(self, logits: Tensor, rows: int) -> Tensor:
        """Logits of ``_guiding``'s rows to those of the first ``rows``."""
        if len(logits) == rows:
            return logits
        told, untold = logits[:rows], logits[rows:]
        guided = torch.lerp(untold, told, self.sampling.guidance)
        return torch.where(told.isfinite() & untold.isfinite(), guided, told)

    def _state_pass(
        self, past: Past, step: int, nothing: Tensor, ids: Tensor, values: Tensor
    ) -> tuple[Tensor, KeysValues]:
        """A first state's slots, each told the id before it: hidden (n, 1 + S, width), keys and values."""
        dynamics = self.world.dynamics
        slots = slice(0, 1 + dynamics.layout.num_state)
        fed = F.pad(ids[:, :-1], (1, 0), value=-1) if ids.shape[1] else ids
        x = dynamics.embed_state(nothing, fed, values, torch.zeros_like(nothing, dtype=torch.bool))
        passes = dynamics.pass_of_slot(1, 1)[slots]
        return self._pass(x, slots, step, past, passes[None] <= passes[:, None])

    def _first_state(self, past: Past, step: int, nothing: Tensor, values: Tensor) -> tuple[Tensor, KeysValues]:
        ids = self.world.schema.encode(values, "absolute")
        return ids, self._state_pass(past, step, nothing, ids, values)[1]

    # -- passes -------------------------------------------------------------------------------------

    def _pass(self, x: Tensor, slots: slice, step: int, past: Past, inside: Tensor) -> tuple[Tensor, KeysValues]:
        dynamics = self.world.dynamics
        cos, sin = dynamics.positions(torch.tensor(step), dynamics.layout.step_place[slots])
        return dynamics.core(x, cos, sin, past.pieces, pass_bias(past, inside), self.world.attention)

    # -- steering -----------------------------------------------------------------------------------

    def _rows(self, row: int | None) -> slice:
        """Every row, or one. Raises ValueError for one that is not there."""
        if row is not None and not 0 <= row < len(self):
            raise ValueError(f"row {row} does not exist: this rollout has rows 0 to {len(self) - 1}")
        return slice(None) if row is None else slice(row, row + 1)

    def _write_limits(self, write: Callable[[Tensor, Any], Tensor], fields: Any, row: int | None) -> None:
        rows, limits = self._rows(row), self._limits.clone()
        limits[rows] = write(limits[rows], fields)
        self._steer(limits, self._locked)

    def _steer(self, limits: Tensor, locked: Tensor) -> None:
        """Tensors that are replaced and never written into, so copies of a rollout may share them."""
        self._limits, self._locked = limits, locked
        self._steered = bool((limits.abs() < FREE).any() | locked.any())

    def _with_locked(self, frames: Tensor, before: Tensor) -> Tensor:
        """Frames (B, n, H, W, 3) that in locked cells are as the picture (B, H, W, 3) before them."""
        if not self._steered:
            return frames
        grid = self.world.dynamics.layout.grid
        side = frames.shape[2] // grid[0]
        locked = self._locked.unflatten(1, grid).repeat_interleave(side, 1).repeat_interleave(side, 2)
        return torch.where(locked[:, None, :, :, None], before[:, None], frames)

    # -- small readings -----------------------------------------------------------------------------

    def _role(self, role: str) -> Tensor:
        columns = list(self.world.schema.role_columns(role).values())
        if not columns:
            return torch.zeros(len(self), device=self.world.device)
        return self._shown[:, columns[0].start].clone()

    def _upsampled(self, begun: Tensor) -> Tensor | None:
        upsampler = self.world.upsampler
        if not self.upsample or upsampler is None:
            self._upsampling = self._large = None
            return None
        if self._upsampling is None:
            self._upsampling = upsampler.start_cache(len(self), first_frame=self.time * self.frames.shape[1])
        large = upsampler.step(self.frames, self._shown, begun, self._upsampling, self._seeds)
        if self._large is None:
            self._large = self._enlarged(self.frames[:, -1])
        large = self._with_locked(large, self._large)
        self._large = large[:, -1]
        return large

    def _enlarged(self, pictures: Tensor) -> Tensor:
        """Pictures (B, H, W, 3) in the size of upsampled ones."""
        assert self.world.upsampler is not None
        size = self.world.upsampler.config.size
        large = F.interpolate(pictures.movedim(-1, 1).float(), (size, size), mode="bicubic")
        return large.round().clamp(0, 255).to(torch.uint8).movedim(1, -1)
