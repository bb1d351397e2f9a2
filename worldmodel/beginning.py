"""How a world begins: from a caption, a state, a part of one, from frames; what is not given is sampled.

A scene is drawn id by id, first what it consists of, then where everything is. Frames are taken in as a prompt: all of
their latent frames go through the transformer with their own ids, so its memory holds what it would hold had it played
them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from tokenizer.causal_conv import StreamingCache
from worldmodel.engines.step import StepQuery, StepStart, Wanted
from worldmodel.engines.torch_engine import Engine
from worldmodel.kv_cache import Past, StepCache, beyond_window, join, pass_bias, turn
from worldmodel.parts import WorldParts
from worldmodel.sampling import Sampling, sample, uniforms, whole
from worldmodel.transformer import Dynamics, KeysValues


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """What a row starts from. ``frames`` uint8 (1 + r * n, H, W, 3).

    Everything left out is sampled to go with what is given: of a ``state`` told in part, the rest. ``actions`` are
    those taken between the frames, ``n`` of them, if they are known.
    ``hold`` and ``limit`` are as ``Rollout.hold`` and ``Rollout.limit`` take them; the first state keeps to them too.
    """

    caption: str = ""
    seed: int = 0
    state: Tensor | Mapping[str, Mapping[str, Any]] | None = None
    frames: Tensor | None = None
    actions: Sequence[Any] | Tensor | None = None
    hold: Mapping[str, Mapping[str, Any]] | None = None
    limit: Mapping[str, Mapping[str, Any]] | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for a caption that is no text and a seed that is none."""
        if not isinstance(self.caption, str):
            raise ValueError(f"a caption is a text, got {self.caption!r}")
        object.__setattr__(self, "seed", whole("seed", self.seed, 0))


@dataclass(frozen=True)
class Prompt:
    """What is known of a row before its first step: latent frames' ids (m, V), -1 for those to be drawn, the states
    that they show (m, F), and the actions (m, A) that led to them, -1 for none."""

    video_ids: Int[Tensor, "m V"]
    states: Float[Tensor, "m F"]
    actions: Int[Tensor, "m A"]

    def __len__(self) -> int:
        return len(self.video_ids)


@dataclass(frozen=True)
class Begun:
    """Rows that may take their first step: what a rollout holds of them, in order.

    limits: (n, F, 2). state: (n, F). state_ids: (n, S). video_ids: (n, V). frames: uint8 (n, 1, H, W, 3), the last
    picture. memory and pixels: the transformer's and the decoder's past.
    """

    generators: list[torch.Generator]
    limits: Tensor
    state: Tensor
    state_ids: Tensor
    video_ids: Tensor
    frames: Tensor
    memory: StepCache
    pixels: StreamingCache


def begin(
    parts: WorldParts,
    beginnings: Sequence[Beginning],
    sampling: Sampling,
    clock: int | None = None,
    *,
    draw: bool = True,
) -> Begun:
    """Everything that rows need to go on at step ``clock``; by default as soon as their prompts have been taken in.

    Without ``draw``, there are no frames, and no room for what pictures leave. States are the same.
    Raises ValueError for wrong shapes, unknown names, values out of range; nothing has been changed then.
    """
    schema, layout, device = parts.schema, parts.dynamics.layout, parts.device
    generators = [torch.Generator().manual_seed(b.seed) for b in beginnings]
    text = parts.encode_captions([b.caption for b in beginnings])
    ids = [None if b.frames is None else _tokenise(parts, b.frames) for b in beginnings]

    values = torch.zeros(len(beginnings), schema.num_values, device=device)
    given = torch.full_like(values, torch.nan)  # of states that are told in part
    for i, beginning in enumerate(beginnings):
        if isinstance(beginning.state, Tensor):
            values[i] = parts.checked_state(beginning.state)
        elif beginning.frames is not None and schema.num_values:
            values[i] = parts.estimate(beginning.frames[None])[0]
        if isinstance(beginning.state, Mapping):
            given[i] = schema.write(given[i], beginning.state)
    unknown = [i for i, b in enumerate(beginnings) if b.frames is None and not isinstance(b.state, Tensor)]
    if unknown:
        scenes = SceneSampler(parts, sampling)
        values[unknown] = scenes.sample(text[unknown], given[unknown], [generators[i] for i in unknown])
    values = torch.where(given.isnan(), values, given)
    limits = parts.limiter.free(len(beginnings), schema.num_values).to(device)
    for i, beginning in enumerate(beginnings):
        limits[i] = parts.limiter.hold(parts.limiter.limit(limits[i], beginning.limit or {}), beginning.hold or {})
    values = parts.limiter.keep(values, limits)

    nothing = torch.full((1, layout.num_video), -1, device=device)
    prompts = [
        Prompt(nothing if seen is None else seen, *_past_of(parts, b, 1 if seen is None else len(seen), values[i]))
        for i, (b, seen) in enumerate(zip(beginnings, ids, strict=True))
    ]
    memory, state_ids, video_ids = _take_in(parts, text, prompts, sampling, generators, clock, draw)
    if not draw:
        height, width = parts.tokenizer.size
        frames = torch.zeros(len(beginnings), 0, height, width, 3, dtype=torch.uint8, device=device)
        pixels = StreamingCache(len(beginnings))
        return Begun(generators, limits, values, state_ids, video_ids, frames, memory, pixels)
    seen = {i: prompt.video_ids for i, prompt in enumerate(prompts) if ids[i] is not None}
    frames, pixels = _show(parts, video_ids, seen, values)
    return Begun(generators, limits, values, state_ids, video_ids, frames, memory, pixels)


def _tokenise(parts: WorldParts, frames: Tensor) -> Tensor:
    """Frames uint8 (1 + r * n, H, W, 3) to the ids of their latent frames (1 + n, V)."""
    return parts.tokenizer.encode(parts.checked_frames(frames)[None])[0].flatten(1)


def _past_of(parts: WorldParts, beginning: Beginning, count: int, value: Tensor) -> tuple[Tensor, Tensor]:
    """States (count, F) that a prompt's latent frames show, ``value`` (F,) the last, and actions (count, A)."""
    num_action = parts.dynamics.layout.num_action
    actions = torch.full((count, num_action), -1, device=parts.device)
    if beginning.actions is not None:
        if len(beginning.actions) != count - 1:
            raise ValueError(
                f"{len(beginning.actions)} actions lie between {count} latent frames: give {count - 1}, one for each "
                "step that the frames show"
            )
        for i, action in enumerate(beginning.actions):
            actions[1 + i] = parts.actions.batch(action, 1)[0].to(parts.device)
    states = value.expand(count, -1).clone()
    if parts.schema.num_values and beginning.frames is not None and parts.estimator is not None:
        r, static = parts.tokenizer.frames_per_step, [s.columns for s in parts.schema.static_slots]
        for i in range(count - 1):
            states[i] = parts.estimate(beginning.frames[None, : 1 + r * i])[0]
            for columns in static:  # one scene from beginning to end
                states[i, columns] = value[columns]
    return states, actions


def _take_in(
    parts: WorldParts,
    text: Tensor,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    generators: list[torch.Generator],
    clock: int | None,
    draw: bool,
) -> tuple[StepCache, Tensor, Tensor]:
    """Plays prompts that end together: the memory (its clock at ``clock``), and the last state and video ids.

    A row whose prompt is shorter is born later in the same memory, as one that is reset would be.
    """
    dynamics, layout, codec = parts.dynamics, parts.dynamics.layout, parts.codec
    engine, longest = Engine(parts), max(map(len, prompts))
    clock = longest if clock is None else clock
    memory = StepCache(dynamics, len(prompts), clock=clock - longest + 1, draw=draw)
    states = torch.stack([F.pad(p.states, (0, 0, longest - len(p), 0)) for p in prompts], 1)  # (longest, n, F)
    video = torch.stack([F.pad(p.video_ids, (0, 0, longest - len(p), 0), value=-1) for p in prompts], 1)
    actions = torch.stack([F.pad(p.actions, (0, 0, longest - len(p), 0), value=-1) for p in prompts], 1)
    state_ids = torch.full((len(prompts), layout.num_state), -1, device=parts.device)
    video_ids = torch.full((len(prompts), layout.num_video), -1, device=parts.device)
    for t in range(longest):
        if t:
            cos, sin = dynamics.positions(torch.tensor(memory.clock), layout.step_place)
            ids = codec.encode(states[t], "change", states[t - 1]) if layout.num_state else state_ids
            nothing = torch.zeros(len(prompts), layout.num_state + layout.num_video, device=parts.device)
            start = StepStart(
                memory.past(), beyond_window(dynamics, memory.clock), state_ids, states[t - 1], states[t - 1], video_ids
            )
            query = StepQuery(actions[t], cos, sin, nothing, fixed_video=video[t], fixed_state=(ids, states[t]))
            made = engine.step(sampling, start, query, Wanted(picture=draw))
            memory.commit(made.kept)
            state_ids, video_ids = made.state_ids, made.video_ids
        rows = [i for i, prompt in enumerate(prompts) if len(prompt) == longest - t]
        if rows:
            index, step = torch.tensor(rows, device=parts.device), memory.clock - 1
            chosen = [generators[row] for row in rows]
            header_ids, header = encode_header(parts, text[index], states[t, index])
            seen = header_ids != layout.vocabulary.special("pad")
            past = header_past(dynamics, header, seen, step)
            ids, settled = first_state(parts, past, step, states[t, index])
            cos, sin = dynamics.positions(torch.tensor(step), layout.step_place)
            chance = F.pad(uniforms(chosen, layout.num_video, parts.device), (layout.num_state, 0))
            here, nothing = states[t, index], torch.full_like(video[t, index], -1)
            start = StepStart(past, None, ids, here, here, nothing)
            query = StepQuery(nobody(parts, len(rows)), cos, sin, chance, fixed_video=video[t, index])
            state_ids = state_ids.index_copy(0, index, ids)
            if draw:
                drawn = engine.draw(sampling, start, query, here, settled)
                settled, video_ids = drawn.kept, video_ids.index_copy(0, index, drawn.video_ids)
            memory.begin(index, header, seen, settled)
    return memory, state_ids, video_ids


def _show(
    parts: WorldParts, video_ids: Tensor, prompts: Mapping[int, Tensor], values: Tensor
) -> tuple[Tensor, StreamingCache]:
    """The last picture of every row, uint8 (n, 1, H, W, 3), and the decoder's past, with the prompts in it (of whose
    earlier states the decoder is told nothing)."""
    tokenizer, grid, count = parts.tokenizer, parts.dynamics.layout.grid, len(video_ids)
    fresh = tokenizer.start_cache(count)
    longest = max([len(p) for p in prompts.values()], default=1)
    decoded = None
    for t in range(longest):
        back = longest - t  # a row with a shorter past starts when it begins: until then it shows its first frame
        now = [prompts[i][max(0, len(prompts[i]) - back)] if i in prompts else video_ids[i] for i in range(count)]
        late = [i for i in range(count) if len(prompts.get(i, video_ids[:1])) == back]
        fresh.reset(late)
        state = values if back == 1 else None
        decoded = tokenizer.decode_step(torch.stack(now).unflatten(1, grid), fresh, state)
    assert decoded is not None
    return decoded[:, -1:], fresh


# -- passes of a beginning --------------------------------------------------------------------------------


def nobody(parts: WorldParts, rows: int) -> Tensor:
    """The action of a first step, (rows, A): none."""
    return torch.full((rows, parts.dynamics.layout.num_action), -1, device=parts.device)


def encode_header(
    parts: WorldParts, text: Tensor, values: Tensor, event: Tensor | None = None
) -> tuple[Tensor, KeysValues]:
    """The header of captions (n, max_text) and states (n, F): its global ids (n, header), and keys and values."""
    dynamics = parts.dynamics
    ids = dynamics.layout.pack_header(text, parts.codec.encode(values, "static"), event)
    cos, sin = dynamics.positions(torch.tensor(0), dynamics.layout.header_place)
    _, kept = dynamics.core(dynamics.embed_header(ids), cos, sin, [], dynamics.header_bias(ids))
    return ids, kept


def header_past(dynamics: Dynamics, header: KeysValues, seen: Tensor, step: int) -> Past:
    """A header as the only past of a step."""
    return Past([turn(header, *beyond_window(dynamics, step))], [], seen)


def first_state(parts: WorldParts, past: Past, step: int, values: Tensor) -> tuple[Tensor, KeysValues]:
    """The absolute ids (n, S) of states (n, F), and keys and values of action and state slots, each told the id before
    it."""
    dynamics, layout = parts.dynamics, parts.dynamics.layout
    slots, ids = slice(0, layout.num_settled), parts.codec.encode(values, "absolute")
    fed = F.pad(ids[:, :-1], (1, 0), value=-1) if ids.shape[1] else ids
    known = torch.zeros(len(ids), dtype=torch.bool, device=parts.device)
    x = dynamics.embed_state(nobody(parts, len(ids)), fed, values, known)
    passes = dynamics.pass_of_slot(1, 1)[slots]
    cos, sin = dynamics.positions(torch.tensor(step), layout.step_place[slots])
    bias = pass_bias(past, passes[None] <= passes[:, None])
    return ids, dynamics.core(x, cos, sin, past.pieces, bias, parts.attention)[1]


# -- scenes -----------------------------------------------------------------------------------------------


class SceneSampler:
    """Draws whole scenes that go with captions and with what is known of them."""

    TRIES = 8  # draws of where everything is, until no body stands in another

    def __init__(self, parts: WorldParts, sampling: Sampling) -> None:
        self.parts, self.sampling = parts, sampling

    def sample(self, text: Tensor, given: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Draws scenes id by id, first what they consist of and then where everything is, (n, num_values).

        ``given`` (n, num_values) are taken as they are where they are numbers; what comes after them knows them.
        """
        parts, dynamics, layout, schema = self.parts, self.parts.dynamics, self.parts.dynamics.layout, self.parts.schema
        values = torch.zeros(len(text), schema.num_values, device=parts.device)
        if not schema.num_values:
            return values
        static = dynamics.static_range[:, 0].expand(len(text), -1).clone()
        cos, sin = dynamics.positions(torch.tensor(0), layout.header_place)
        start = layout.vocabulary.span("state").start
        texts, past = self._guiding(text), []
        twice, begun = len(texts) // len(text), 0
        known, fixed = self._known(given, "static")
        for i, (low, high) in enumerate(dynamics.static_range.tolist()):
            end = layout.header_static.start + i + 1
            ids, here = layout.pack_header(texts, static.repeat(twice, 1)), slice(begun, end)
            bias = dynamics.header_bias(ids)[..., here, :end]
            hidden, new = dynamics.core(dynamics.embed_header(ids)[:, here], cos[here], sin[here], past, bias)
            past, begun = [join([*past, new])], end
            logits = dynamics.header_head(hidden[:, -1:]).float()
            logits = self._guided(logits[..., start + low : start + high], len(text))
            drawn = low + self._draw(logits, generators)
            static[:, i] = torch.where(known[:, i], fixed[:, i], drawn)
        values = parts.codec.decode(static, "static", values)
        open_rows = list(range(len(text)))
        for _ in range(self.TRIES):
            chosen = [generators[row] for row in open_rows]
            values[open_rows] = self._place(text[open_rows], values[open_rows], given[open_rows], chosen)
            overlapping = dynamics.overlapping(values[open_rows])  # which no scene begins with
            open_rows = [row for row, again in zip(open_rows, overlapping.tolist(), strict=True) if again]
            if not open_rows:
                break
        return values

    def _place(self, text: Tensor, values: Tensor, given: Tensor, generators: list[torch.Generator]) -> Tensor:
        """Draws where everything is at first, for scenes whose static values (n, num_values) are given."""
        parts, dynamics, layout = self.parts, self.parts.dynamics, self.parts.dynamics.layout
        texts = self._guiding(text)
        twice = len(texts) // len(text)
        header_ids, header = encode_header(parts, texts, values.repeat(twice, 1))
        past = header_past(dynamics, header, header_ids != layout.vocabulary.special("pad"), 0)
        past = past.with_room(layout.num_settled)
        rows = len(texts)
        unknown = torch.zeros(rows, dtype=torch.bool, device=parts.device)
        conditioning = dynamics.condition_state(nobody(parts, rows), values.repeat(twice, 1), unknown)
        cos, sin = dynamics.positions(torch.tensor(0), layout.step_place[: layout.num_settled])
        ids = dynamics.absolute_range[:, 0].expand(len(text), -1).clone()
        known, fixed = self._known(given, "absolute")
        fed = torch.full((rows, 1), -1, device=parts.device)
        for i in range(layout.num_state):
            here = slice(layout.num_action + i if i else 0, layout.num_action + i + 1)  # the action goes with the first
            x = dynamics.feed_state(conditioning[:, here], fed)
            bias = pass_bias(past, past.seen.new_ones(1, x.shape[1]))
            hidden, new = dynamics.core(x, cos[here], sin[here], past.pieces, bias, parts.attention)
            past.fill(layout.num_settled - here.start, new)
            logits = dynamics.state_logits(hidden[:, -1:], dynamics.absolute_range[i : i + 1])
            drawn = self._draw(self._guided(logits, len(text)), generators)
            ids[:, i] = torch.where(known[:, i], fixed[:, i], drawn)
            fed = ids[:, i : i + 1].repeat(twice, 1)
        return parts.codec.settled(parts.codec.decode(ids, "absolute", values))

    def _draw(self, logits: Tensor, generators: list[torch.Generator]) -> Tensor:
        """One id (n,) of logits (n, 1, ids)."""
        chance = uniforms(generators, 1, self.parts.device)
        return sample(logits, self.sampling.scene_temperature, chance)[0][:, 0]

    def _known(self, given: Tensor, coding: Literal["static", "absolute"]) -> tuple[Tensor, Tensor]:
        """Which slots' ids the numbers among values (n, num_values) settle, bool (n, slots), and the ids."""
        schema = self.parts.schema
        slots = schema.static_slots if coding == "static" else schema.slots
        known = ~given[:, [slot.columns.start for slot in slots]].isnan()
        return known, self.parts.codec.encode(given.nan_to_num(), coding)

    def _guiding(self, text: Tensor) -> Tensor:
        """Captions, and where they are to guide more or less than they do, as many empty ones after them."""
        if self.sampling.guidance == 1 or not bool((text >= 0).any()):
            return text
        return torch.cat([text, torch.full_like(text, -1)])

    def _guided(self, logits: Tensor, rows: int) -> Tensor:
        """Logits of ``_guiding``'s rows to those of the first ``rows``."""
        if len(logits) == rows:
            return logits
        conditional, unconditional = logits[:rows], logits[rows:]
        guided = torch.lerp(unconditional, conditional, self.sampling.guidance)
        return torch.where(conditional.isfinite() & unconditional.isfinite(), guided, conditional)
