"""A running world: action in, state simulated, picture drawn, for ever.

Every step first samples the next scene state and then the picture that shows it. The state can be read after
any step and written before the next one; a rollout can be copied, rewound and branched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from tokenizer.causal_conv import StreamingCache, pick
from worldmodel.beginning import Beginning, Begun, begin, encode_header
from worldmodel.engines.step import StepQuery, StepResult, StepStart, Wanted
from worldmodel.engines.torch_engine import Engine
from worldmodel.kv_cache import StepCache, beyond_window
from worldmodel.parts import WorldParts
from worldmodel.sampling import Sampling, tensor_of, uniforms, whole
from worldmodel.steering import Steering
from worldmodel.upsampler import UpsamplerCache

Action = Any  # whatever ``ActionSpace.batch`` takes: a name, an index, an action of the original space, or one a row


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one action led to.

    frames: uint8 (B, r, H, W, 3), r being 0 where nothing is drawn; state: float32 (B, num_values) in the schema's
    units; reward: float32 (B,); terminated: bool (B,); reward_mean, terminated_probability: float32 (B,), the same as
    expected before ids were chosen; doubt: float32 (B, entities), or (B, 1) in a world without a state, the mean
    entropy of ids in nats, or None unless it was asked for; upsampled: uint8 (B, r, 2H, 2W, 3), or None when the
    upsampler is off.
    """

    frames: UInt8[Tensor, "B r H W 3"]
    state: Float[Tensor, "B F"]
    reward: Float[Tensor, " B"]
    terminated: Bool[Tensor, " B"]
    reward_mean: Float[Tensor, " B"]
    terminated_probability: Float[Tensor, " B"]
    doubt: Float[Tensor, "B doubts"] | None = None
    upsampled: UInt8[Tensor, "B r large_H large_W 3"] | None = None


@dataclass(frozen=True, kw_only=True)
class RolloutState:
    """What a rollout is at one moment, but for its pasts. Its tensors are replaced, never written into.

    state: (B, F), what the next step starts from. shown: (B, F), what the last picture shows; an edit leaves it alone.
    state_ids: (B, S). video_ids: (B, V). frames: uint8 (B, 1 or r, H, W, 3), the last pictures. large: the last
    upsampled picture (B, 2H, 2W, 3), if there is one. actions: (B, A), local ids of what was done last, -1 at first.
    seeds: (B,). captions and events: one a row; the next step is
    told the latter. time: steps since the start.
    """

    state: Float[Tensor, "B F"]
    shown: Float[Tensor, "B F"]
    state_ids: Int[Tensor, "B S"]
    video_ids: Int[Tensor, "B V"]
    frames: UInt8[Tensor, "B n H W 3"]
    actions: Int[Tensor, "B A"]
    seeds: Int[Tensor, " B"]
    steering: Steering
    captions: tuple[str, ...]
    events: tuple[str, ...]
    time: int = 0
    large: Tensor | None = None

    def rows(self, index: Tensor | None) -> RolloutState:
        """These rows of it, or all."""
        if index is None:
            return self
        tensors = ("state", "shown", "state_ids", "video_ids", "frames", "actions", "seeds")
        steering = Steering(pick(self.steering.limits, index), pick(self.steering.locked, index))
        return replace(
            self,
            **{name: pick(getattr(self, name), index) for name in tensors},
            steering=steering,
            captions=tuple(self.captions[i] for i in index),
            events=tuple(self.events[i] for i in index),
            large=None if self.large is None else pick(self.large, index),
        )


@dataclass
class Snapshot:
    """Everything a rollout is at one moment, without weights. Give it to ``Rollout.restore``. It may be pickled."""

    kept: Rollout | dict[str, Any]

    def of(self, parts: WorldParts, engine: Engine) -> Rollout:
        """A rollout that goes on from here. Raises ValueError for one of another world."""
        if isinstance(self.kept, dict):
            self.kept = Rollout._unpacked(self.kept, parts, engine)
        if self.kept.parts is not parts:
            raise ValueError("this snapshot is of another world: give one of this")
        return self.kept.fork()

    def __getstate__(self) -> dict[str, Any]:
        return {"kept": self.kept if isinstance(self.kept, dict) else self.kept._packed()}


class Rollout:
    """A batch of running worlds. Made by :meth:`World.start`.

    Attributes:
        sampling: how ids are drawn, its modes filled in.
        upsample: whether steps also give upsampled frames.
        draw: whether steps give frames. Where they don't, ``picture`` draws one from the state.
        doubt: whether steps say how sure they were.
        now: everything else that can be read (see :class:`RolloutState`).
    """

    now: RolloutState
    cache: StepCache
    pixels: StreamingCache
    generators: list[torch.Generator]
    _upsampling: UpsamplerCache | None

    def __init__(
        self,
        parts: WorldParts,
        engine: Engine,
        beginnings: Sequence[Beginning],
        sampling: Sampling,
        *,
        upsample: bool = False,
        draw: bool = True,
        doubt: bool = False,
    ) -> None:
        if not draw and not parts.dynamics.simulates_alone:
            raise ValueError("this world's steps look at their pictures: it cannot go on without drawing them")
        if not draw and upsample:
            raise ValueError("what is not drawn cannot be upsampled: ask for one of the two")
        self.parts, self.engine, self.upsample, self.draw, self.doubt = parts, engine, upsample, draw, doubt
        self.sampling = with_modes(parts, sampling)
        with torch.inference_mode():
            begun = begin(parts, beginnings, self.sampling, draw=draw)
        batch, device = len(beginnings), parts.device
        self.cache, self.pixels, self.generators = begun.memory, begun.pixels, begun.generators
        self._upsampling = None
        cells = torch.zeros(batch, parts.dynamics.layout.num_video, dtype=torch.bool, device=device)
        self.now = RolloutState(
            state=begun.state,
            shown=begun.state,
            state_ids=begun.state_ids,
            video_ids=begun.video_ids,
            frames=begun.frames,
            actions=torch.full((batch, parts.dynamics.layout.num_action), -1, device=device),
            seeds=torch.tensor([b.seed for b in beginnings], device=device),
            steering=Steering(begun.limits, cells),
            captions=tuple(b.caption for b in beginnings),
            events=("",) * batch,
        )
        self._leave_inference_mode()

    def __len__(self) -> int:
        return len(self.now.captions)

    # -- what can be read -----------------------------------------------------------------------------

    @property
    def state(self) -> Tensor:
        """float32 (B, num_values), the state that the next step starts from."""
        return self.now.state

    @property
    def frames(self) -> Tensor:
        """uint8 (B, 1 or r, H, W, 3), the last pictures."""
        return self.now.frames

    @property
    def captions(self) -> list[str]:
        """One per row."""
        return list(self.now.captions)

    @property
    def time(self) -> int:
        """Steps since the start (of the batch, not of a row reset later)."""
        return self.now.time

    def describe(self, row: int = 0) -> dict[str, dict[str, Any]]:
        """One row's state by entity and field."""
        return self.parts.schema.to_dict(self.state[self._rows(row)][0])

    @property
    def latent(self) -> Tensor:
        """float32 (B, slots, width): what the transformer's last layer keeps of the last step, its values of the action
        slots, the state's, and, if it was drawn, the picture's."""
        return self.cache.latest().values[-1].transpose(1, 2).flatten(2).float()

    def picture(self) -> Tensor:
        """uint8 (B, H, W, 3): the last picture, or, where nothing is drawn, one of the state as it is now."""
        if self.draw:
            return self.frames[:, -1]
        each = zip(self.captions, self.state, self.now.seeds.tolist(), strict=True)
        beginnings = [Beginning(caption=caption, state=state, seed=seed) for caption, state, seed in each]
        with torch.inference_mode():
            drawn = begin(self.parts, beginnings, self.sampling).frames[:, -1]
        return drawn.clone()

    # -- playing --------------------------------------------------------------------------------------

    def step(self, action: Action = None) -> Step:
        """Takes one action per row (see ``ActionSpace.batch``) and shows what it leads to.

        With None, a world that takes no actions goes on by itself, and one that has learned what is likely to be done
        does that. Raises ValueError for an unknown action or a wrong number of them.
        """
        parts, prior = self.parts, self.parts.dynamics.action_prior
        if action is None and not parts.actions.num_parts:
            actions = torch.full((len(self), parts.dynamics.layout.num_action), -1)
        elif action is None and prior is not None and not self.draw:
            raise ValueError("what is likely to be done is seen in pictures, which are not drawn: give an action")
        elif action is None and prior is not None:
            with torch.inference_mode():
                chance = uniforms(self.generators, parts.dynamics.layout.num_action, parts.device)
                actions = prior.draw(self.now.video_ids, self.now.actions, chance)
            actions = actions.clone()
        else:
            actions = parts.actions.batch(action, len(self))
        began = self.now.state  # an edited state is begun from, though no picture showed it
        with self.engine.computing():
            with torch.inference_mode():  # a step is many small operations, each a little cheaper so
                led = self._advance(actions.to(parts.device))
            self._leave_inference_mode()  # still there: copies, too, would wake PyTorch's other threads
            nothing = torch.zeros(len(self), device=parts.device)
            mean, end = (nothing, nothing.clone()) if led.outlook is None else (led.outlook.reward, led.outlook.end)
            made = Step(
                frames=self.now.frames.clone(),
                state=self.now.shown.clone(),
                reward=self._role("reward") if led.reward is None else led.reward.clone(),
                terminated=(self._role("terminated") > 0.5) if led.terminated is None else led.terminated.clone(),
                reward_mean=mean.clone(),
                terminated_probability=end.clone(),
                doubt=None if led.doubt is None else led.doubt.clone(),
            )
        with torch.inference_mode():
            upsampled = self._upsampled(began)
        return made if upsampled is None else replace(made, upsampled=upsampled.clone())

    def _advance(self, actions: Tensor) -> StepResult:
        """Simulates one step, and draws it."""
        dynamics, now = self.parts.dynamics, self.now
        layout, clock = dynamics.layout, self.cache.clock
        cos, sin = dynamics.positions(torch.tensor(clock), layout.step_place)
        chance = uniforms(self.generators, layout.num_state + layout.num_video, self.parts.device)
        start = StepStart(
            self.cache.past(), beyond_window(dynamics, clock), now.state_ids, now.state, now.shown, now.video_ids
        )
        query = StepQuery(actions, cos, sin, chance)
        if now.steering.active:
            kept = torch.where(now.steering.locked, now.video_ids, -1)
            query = replace(query, limits=now.steering.limits, fixed_video=kept)
        made = self.engine.step(self.sampling, start, query, Wanted(self.draw, self.doubt))
        self.cache.commit(made.kept)
        if any(now.events):
            self.cache.forget_events()
        frames = now.frames
        if self.draw:
            frames = self.engine.decode(made.video_ids.unflatten(1, layout.grid), self.pixels, made.state, now.state)
            # The state is drawn there too.
            frames = now.steering.keep_pixels(frames, now.frames[:, -1], layout.grid)
        self.now = replace(
            now,
            state=made.state,
            shown=made.state,
            state_ids=made.state_ids,
            video_ids=made.video_ids,
            actions=actions,
            frames=frames,
            events=("",) * len(self),
            time=now.time + 1,
        )
        return made

    def _leave_inference_mode(self) -> None:
        """Gives out what may be written into and learned from."""
        names = ("state", "shown", "state_ids", "video_ids", "frames")
        self.now = replace(self.now, **{name: getattr(self.now, name).clone() for name in names})

    def _role(self, role: str) -> Tensor:
        columns = list(self.parts.schema.role_columns(role).values())
        if not columns:
            return torch.zeros(len(self), device=self.parts.device)
        return self.now.shown[:, columns[0].start].clone()

    def reset_rows(self, rows: Sequence[int], beginnings: Sequence[Beginning]) -> None:
        """Starts some rows anew while the others go on undisturbed. ``frames`` then shows their first picture, as often
        as a step has pictures.

        What was held, limited and locked in them is so no more. Raises ValueError for rows that are not there, and for
        whatever ``World.start`` refuses; nothing has changed then.
        """
        rows = [whole("a row", row, 0) for row in rows]
        if len(rows) != len(beginnings):
            raise ValueError(f"{len(rows)} rows need as many beginnings, got {len(beginnings)}")
        if not all(isinstance(one, Beginning) for one in beginnings):
            raise TypeError(f"rows are reset to a Beginning each, got {beginnings!r}")
        if len(set(rows)) < len(rows) or max(rows, default=0) >= len(self):
            raise ValueError(f"rows {rows} cannot be reset: name each of the rows 0 to {len(self) - 1} once at most")
        with torch.inference_mode():
            begun = begin(self.parts, beginnings, self.sampling, self.cache.clock, draw=self.draw)
            self._adopt(rows, beginnings, begun)
        self._leave_inference_mode()

    def _adopt(self, rows: list[int], beginnings: Sequence[Beginning], begun: Begun) -> None:
        """Nothing is changed before here: a beginning that is refused leaves the rows as they were."""
        index, now = torch.tensor(rows, device=self.parts.device), self.now
        captions, events = list(now.captions), list(now.events)
        for row, beginning, generator in zip(rows, beginnings, begun.generators, strict=True):
            captions[row], events[row], self.generators[row] = beginning.caption, "", generator
        self.cache.adopt(begun.memory, index)
        self.pixels.adopt(begun.pixels, rows)
        large = now.large
        if self._upsampling is not None:
            self._upsampling.reset(rows)
        if large is not None:
            large = large.index_copy(0, index, self.enlarged(begun.frames[:, -1]))
        seeds = torch.tensor([b.seed for b in beginnings], device=index.device)
        self.now = replace(
            now,
            state=now.state.index_copy(0, index, begun.state),
            shown=now.shown.index_copy(0, index, begun.state),
            state_ids=now.state_ids.index_copy(0, index, begun.state_ids),
            video_ids=now.video_ids.index_copy(0, index, begun.video_ids),
            actions=now.actions.index_fill(0, index, -1),
            frames=now.frames.index_copy(0, index, begun.frames.expand(-1, now.frames.shape[1], -1, -1, -1)),
            seeds=now.seeds.index_copy(0, index, seeds),
            steering=now.steering.with_limits(index, begun.limits).with_locked(index, False),
            captions=tuple(captions),
            events=tuple(events),
            large=large,
        )

    # -- moments --------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """The rollout as it is now, to come back to."""
        return Snapshot(self.fork())

    def restore(self, snapshot: Snapshot, rows: Sequence[int] | None = None) -> None:
        """Goes back to a snapshot; what follows is the same again for the same actions.

        A snapshot of one row goes into all of this rollout's, and ``rows`` says for each of this rollout's which of
        the snapshot's it becomes. Raises ValueError for a snapshot of another world, or of another number of rows.
        """
        if not isinstance(snapshot, Snapshot):
            raise TypeError(f"a snapshot is what snapshot() gave, got {type(snapshot).__name__}")
        kept = snapshot.of(self.parts, self.engine)
        if kept.draw != self.draw:
            raise ValueError("this snapshot is drawn, and the rollout isn't, or the other way round: take one like it")
        if rows is None and len(kept) != len(self):
            rows = [0] * len(self) if len(kept) == 1 else None
        count = len(kept) if rows is None else len(rows)
        if count != len(self):
            raise ValueError(f"{count} rows cannot become this rollout's {len(self)}: say which by rows")
        self._take(kept, rows)

    def fork(self, rows: Sequence[int] | None = None, *, seed: int | None = None, draw: bool | None = None) -> Rollout:
        """An independent copy that goes its own way from here.

        Args:
            rows: those of this rollout that the copy consists of, in order and as often as they are named; by default
                all of them. ``[0] * 64`` makes 64 of the first.
            seed: row i draws by ``seed + i`` from here on, instead of all alike.
            draw: False for a copy that draws no more; by default as this one.

        Raises ValueError for rows that are not there, and where nothing is to be drawn though it has to be, or the
        other way round.
        """
        if draw and not self.draw:
            raise ValueError("what was not drawn until now cannot be drawn from here on: start with draw=True")
        if draw is False and not self.parts.dynamics.simulates_alone:
            raise ValueError("this world's steps look at their pictures: it cannot go on without drawing them")
        twin = Rollout.__new__(Rollout)
        twin.parts, twin.engine, twin.upsample = self.parts, self.engine, self.upsample
        twin._take(self, rows)
        if draw is False and self.draw:
            twin.draw, twin.upsample, twin._upsampling = False, False, None
            twin.cache.forget_video()
            twin.pixels, twin.now = (
                StreamingCache(len(twin)),
                replace(twin.now, frames=twin.now.frames[:, :0], large=None),
            )
        if seed is not None:
            seed = whole("seed", seed, 0)
            twin.generators = [torch.Generator().manual_seed(seed + i) for i in range(len(twin))]
        return twin

    def _take(self, other: Rollout, rows: Sequence[int] | None = None) -> None:
        """Becomes what another rollout of the same world is, or some of its rows, but for whether it upsamples."""
        rows = None if rows is None else [whole("a row", row, 0) for row in rows]
        if rows is not None and (not rows or max(rows) >= len(other)):
            raise ValueError(f"rows {rows} cannot be taken: name some of the rows 0 to {len(other) - 1}")
        index = None if rows is None else torch.tensor(rows)
        self.sampling, self.draw, self.doubt = other.sampling, other.draw, other.doubt
        self.cache, self.pixels = other.cache.fork(index), other.pixels.fork(index)
        chosen = range(len(other)) if rows is None else rows
        self.generators = [other.generators[row].clone_state() for row in chosen]
        self._upsampling = None if other._upsampling is None else other._upsampling.fork(index)
        self.now = other.now.rows(index)
        self._leave_inference_mode()  # tensors of its own, for they are given out

    def _packed(self) -> dict[str, Any]:
        """All of it but the world, to be pickled."""
        places, upsampling = self.parts.module_names, self._upsampling
        return {
            "world": self.parts.fingerprint,
            "plain": (self.sampling, self.upsample, self.draw, self.doubt, self.now),
            "cache": {name: value for name, value in vars(self.cache).items() if name != "dynamics"},
            "pixels": self.pixels.packed(places),
            "generators": [generator.get_state() for generator in self.generators],
            "upsampling": None if upsampling is None else upsampling.packed(places),
        }

    @staticmethod
    def _unpacked(packed: Mapping[str, Any], parts: WorldParts, engine: Engine) -> Rollout:
        """Raises ValueError for what was packed in another world."""
        if packed["world"] != parts.fingerprint:
            raise ValueError("this snapshot is of another world: give one of this")
        modules = {name: module for module, name in parts.module_names.items()}
        twin = Rollout.__new__(Rollout)
        twin.parts, twin.engine = parts, engine
        twin.sampling, twin.upsample, twin.draw, twin.doubt, twin.now = packed["plain"]
        twin.cache = StepCache.__new__(StepCache)
        twin.cache.__dict__.update(packed["cache"] | {"dynamics": parts.dynamics, "shared": True})
        twin.pixels = StreamingCache.unpacked(packed["pixels"], modules)
        twin.generators = [torch.Generator() for _ in packed["generators"]]
        for generator, state in zip(twin.generators, packed["generators"], strict=True):
            generator.set_state(state)
        upsampling = packed["upsampling"]
        twin._upsampling = None if upsampling is None else UpsamplerCache.unpacked(upsampling, modules)
        return twin

    # -- steering -------------------------------------------------------------------------------------

    def edit(self, changes: Mapping[str, Mapping[str, Any]], row: int | None = None) -> None:
        """Writes the state: ``{"player": {"position": (0.1, 0.2)}}``. The next frames follow.

        Works on every row, or on one. Raises ValueError for unknown names and values out of range.
        """
        rows = self._rows(row)
        before, state = self.state[rows], self.state.clone()
        state[rows] = after = self.parts.schema.write(before, changes)
        self.now = replace(self.now, state=state)
        static = [slot.columns.start for slot in self.parts.schema.static_slots]
        if bool((before[:, static] != after[:, static]).any()):
            self._rewrite_header(range(len(self))[rows])

    def tell(self, event: str, row: int | None = None) -> None:
        """Tells the next step, and it alone, what happens: ``"everything slows down"``. Empty: nothing.

        Every row, or one; what was told before and has not happened yet is replaced. It is a condition, as a caption
        is: what the world was trained on, it does. Raises ValueError for a text that is too long, and in a world
        that was not trained to be told anything in mid-stream.
        """
        rows = range(len(self))[self._rows(row)]
        if not isinstance(event, str):
            raise ValueError(f"what happens is told in words, got {event!r}")
        self.parts.encode_events([event])
        events = tuple(event if i in rows else old for i, old in enumerate(self.now.events))
        self.now = replace(self.now, events=events)
        self._rewrite_header(rows)

    @torch.inference_mode()
    def _rewrite_header(self, rows: Sequence[int]) -> None:
        parts, index = self.parts, torch.tensor(list(rows), device=self.parts.device)
        text = parts.encode_captions([self.now.captions[row] for row in rows])
        event = parts.encode_events([self.now.events[row] for row in rows])
        ids, kept = encode_header(parts, text, self.state[index], event)
        seen = ids != parts.dynamics.layout.vocabulary.special("pad")
        self.cache.replace_header(index, kept, seen, parts.dynamics.condition_event(event))

    def hold(self, fields: Mapping[str, Mapping[str, Any]], row: int | None = None) -> None:
        """Keeps fields at a value in every step from the next one on: ``{"light": {"angle": 0.3}}``.

        The state is sampled and kept to the value before anything is drawn, so pictures show it; everything else goes
        on as the model has learned. In every row, or in one. Whatever was held or limited of the same fields before
        is replaced; an edit of them lasts until the next step. Raises ValueError as ``edit`` does, and for fields that
        never change.
        """
        self._write_limits(self.parts.limiter.hold, fields, row)

    def limit(self, fields: Mapping[str, Mapping[str, Any]], row: int | None = None) -> None:
        """Keeps fields within (low, high): ``{"player": {"position": ((-0.2, -0.2), (0.2, 0.2))}}``.

        Each end is a value of the field; of a periodic field they are an arc's, going up from low, if need be across
        the wrap. What is sampled outside is brought to the nearer end before anything is drawn, as by a wall, from the
        next step on. In every row, or in one; replaces what was held or limited of the same fields. Raises ValueError
        as ``hold`` does, for fields that are no quantities, and for ends in the wrong order.
        """
        self._write_limits(self.parts.limiter.limit, fields, row)

    def release(self, fields: Mapping[str, str | Iterable[str]] | None = None, row: int | None = None) -> None:
        """Holds and limits no more, whatever it is or what is named: ``{"light": ["angle"]}``. In every row, or in one.

        Raises ValueError for unknown names.
        """
        if fields is None:
            fields = {e.name: [f.name for f in e.fields if not f.static] for e in self.parts.schema.entities}
        self._write_limits(self.parts.limiter.release, fields, row)

    def _write_limits(self, write: Callable[[Tensor, Any], Tensor], fields: Any, row: int | None) -> None:
        rows, steering = self._rows(row), self.now.steering
        self._steer(steering.with_limits(rows, write(steering.limits[rows], fields)))

    def lock(self, cells: Tensor | np.ndarray, row: int | None = None) -> None:
        """Keeps a region of the picture as it is now: its ids are copied from step to step, and its pixels with them.

        The state goes on behind it. Upsampled pictures are kept there too; those that were not upsampled before are
        enlarged (bicubic). In every row, or in one; adds to what is locked already.

        Args:
            cells: bool, (h, w) on the latent grid, or (H, W) in pixels, that lock every cell they touch.

        Raises ValueError for any other mask.
        """
        if not self.draw:
            raise ValueError("regions are locked in pictures, and this rollout draws none")
        grid, size, rows = self.parts.dynamics.layout.grid, tuple(self.frames.shape[2:4]), self._rows(row)
        mask = tensor_of("cells", cells)
        if mask.dtype != torch.bool or tuple(mask.shape) not in (grid, size):
            raise ValueError(
                f"lock takes a bool mask, {grid} of cells or {size} of pixels, got {mask.dtype} {tuple(mask.shape)}"
            )
        if tuple(mask.shape) != grid:
            mask = mask.unflatten(1, (grid[1], -1)).unflatten(0, (grid[0], -1)).any(-1).any(1)
        steering = self.now.steering
        self._steer(steering.with_locked(rows, steering.locked[rows] | mask.flatten().to(steering.locked.device)))

    def unlock(self, row: int | None = None) -> None:
        """Lets every locked region go on, in every row, or in one."""
        self._steer(self.now.steering.with_locked(self._rows(row), False))

    def _steer(self, steering: Steering) -> None:
        self.now = replace(self.now, steering=steering)

    def _rows(self, row: int | None) -> slice:
        """Every row, or one. Raises ValueError for one that is not there."""
        row = None if row is None else whole("row", row, 0)
        if row is not None and row >= len(self):
            raise ValueError(f"row {row} does not exist: this rollout has rows 0 to {len(self) - 1}")
        return slice(None) if row is None else slice(row, row + 1)

    # -- upsampled pictures ---------------------------------------------------------------------------

    def _upsampled(self, began: Tensor) -> Tensor | None:
        upsampler, now = self.parts.upsampler, self.now
        if not self.upsample or upsampler is None:
            self._upsampling, self.now = None, replace(now, large=None)
            return None
        if self._upsampling is None:
            self._upsampling = upsampler.start_cache(len(self), first_frame=now.time * now.frames.shape[1])
        large = upsampler.step(now.frames, now.shown, began, self._upsampling, now.seeds)
        before = self.enlarged(now.frames[:, -1]) if now.large is None else now.large
        large = now.steering.keep_pixels(large, before, self.parts.dynamics.layout.grid)
        self.now = replace(now, large=large[:, -1])
        return large

    def enlarged(self, pictures: UInt8[Tensor, "B H W 3"]) -> UInt8[Tensor, "B large_H large_W 3"]:
        """Pictures in the size of upsampled ones, by interpolation alone (bicubic)."""
        assert self.parts.upsampler is not None
        factor = self.parts.upsampler.config.factor
        large = F.interpolate(pictures.movedim(-1, 1).float(), scale_factor=factor, mode="bicubic")
        return large.round().clamp(0, 255).to(torch.uint8).movedim(1, -1)


def with_modes(parts: WorldParts, sampling: Sampling) -> Sampling:
    """Sampling whose ids a pass are said. Raises ValueError for modes that the world was not trained for."""
    dynamics, chosen = parts.dynamics, {}
    for name, modes in (
        ("tokens_per_pass", dynamics.config.tokens_per_pass),
        ("state_tokens_per_pass", dynamics.state_modes),
    ):
        k = chosen[name] = getattr(sampling, name) or modes[0]
        if k not in modes:
            known = ", ".join(map(str, modes))
            raise ValueError(f"this world was not trained for {k} {name.replace('_', ' ')}; choose from {known}")
    return replace(sampling, **chosen)
