"""The dynamics: a decoder-only transformer over the token stream that predicts k ids per pass.

One mechanism covers raster, row and whole-frame prediction. Within a segment (a step's state, a step's
video) the input at a slot is the id k places earlier in the segment's own stream, so in a whole-frame pass
it is the previous frame's id at the same place; a slot sees its own pass and everything before it, never an
id that is not yet committed. Besides, every slot is conditioned on what is already settled: the action, the painted
state (`tokenizer/scene`), the previous id at its place.

The state is simulated before it is drawn: by default its slots do not look at video, so that physics depends
on the state alone and an edit of the state is not contradicted by the picture before it. Any part may be missing: a
world without a state goes from picture to picture, one that nobody steers has <step> in the action's place.

Training lays the steps out as blocks and lets every block attend to exactly what streaming would keep: the
header at a fixed distance, the anchors, a window of steps. Sources: IRIS (arXiv:2209.00588) for tokens,
Loong (arXiv:2410.02757) for one stream, StreamingT2V (arXiv:2403.14773) for anchors.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from tokenizer.causal_conv import RMSNorm, rms_norm
from tokenizer.scene import scene_painter, state_painter
from tokenizer.state_codec import StateCodec
from tokenizer.state_map import StateMap, speaks_unplaced
from tokenizer.state_schema import StateSchema
from tokenizer.stream import Layout, Modality
from worldmodel.action_prior import ActionPrior
from worldmodel.attention import attend
from worldmodel.nearby_cells import NearbyCells, PictureSummary
from worldmodel.outcome import FrameOutcome, OutcomeLogits, outcome_reader
from worldmodel.rotary import cos_sin, rotate

_HIDDEN = -1e4  # a bias that hides a key; finite, so that a row without keys cannot become NaN


@dataclass(frozen=True, kw_only=True)
class DynamicsConfig:
    """Size and memory of the transformer.

    ``window`` steps are remembered besides the header and the first ``anchor_frames`` latent frames. Of ``memory``
    steps, if that is more, action and state slots are; without a state they sum up the last picture, so that a long
    past costs one key a step.
    ``tokens_per_pass`` are the video modes the weights are trained for; the first is the default.
    ``state_tokens_per_pass`` are the state's modes likewise; none means all of a state at once.
    ``code_levels`` are FSQ's, if it made the codes: codes that share a digit then share what is learned. ``said`` are
    the codes that have an id, if not all have one (see ``QuantizerConfig``).
    With ``read_outcome``, reward and end are read from the state that a step led to (`outcome.py`), not foreseen.
    Where no state holds them, they are read from the picture: ``rewards`` are the values that a reward may take, and
    ``predict_end`` says whether episodes end. With ``predict_action``, it is learned what is likely to be done.
    With ``show_values``, a frame's slots are told the values of a state that no view places in the picture.
    ``nearby_width`` is that of a convolution over the last frame's ids that a frame's slots are told (0: none).
    ``max_text`` and ``max_event`` are places for a caption's ids and for those of an event told in mid-stream.
    """

    width: int = 192
    depth: int = 6
    heads: int = 4
    window: int = 4
    memory: int = 0
    anchor_frames: int = 1
    max_text: int = 64
    max_event: int = 0
    tokens_per_pass: tuple[int, ...] = (64,)
    state_tokens_per_pass: tuple[int, ...] = ()
    state_sees_video: bool = False
    code_levels: tuple[int, ...] = ()
    said: tuple[int, ...] = ()
    read_outcome: bool = False
    show_values: bool = False
    nearby_width: int = 0
    nearby_blocks: int = 4
    rewards: tuple[float, ...] = ()
    predict_end: bool = False
    predict_action: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "tokens_per_pass", tuple(self.tokens_per_pass))
        object.__setattr__(self, "state_tokens_per_pass", tuple(self.state_tokens_per_pass))
        object.__setattr__(self, "code_levels", tuple(self.code_levels))
        object.__setattr__(self, "said", tuple(self.said))
        object.__setattr__(self, "rewards", tuple(self.rewards))
        if self.width % (6 * self.heads):
            needed = 6 * self.heads
            raise ValueError(f"width {self.width} must be a multiple of 6 x heads = {needed}, for 3-D rotary positions")

    @property
    def head_dim(self) -> int:
        return self.width // self.heads

    @property
    def long(self) -> int:
        """Steps whose action and state slots are remembered."""
        return max(self.window, self.memory)


class Block(nn.Module):
    """Pre-norm attention and MLP. ``project`` and ``finish`` bracket whatever attention is wanted between."""

    def __init__(self, config: DynamicsConfig) -> None:
        super().__init__()
        width = config.width
        self.heads = config.heads
        self.attention_norm, self.mlp_norm = RMSNorm(width), RMSNorm(width)
        self.query_norm, self.key_norm = RMSNorm(config.head_dim), RMSNorm(config.head_dim)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.merge = nn.Linear(width, width, bias=False)
        self.up = nn.Linear(width, 4 * width)
        self.down = nn.Linear(4 * width, width)

    def project(self, x: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(..., Q, width) to rotated queries and keys and values, each (..., heads, Q, head_dim)."""
        qkv = self.qkv(self.attention_norm(x)).unflatten(-1, (3, self.heads, -1)).transpose(-4, -2)
        both, value = qkv[..., :2, :, :], qkv[..., 2, :, :]  # (..., heads, 2, Q, head_dim), (..., heads, Q, head_dim)
        scales = torch.stack([self.query_norm.weight, self.key_norm.weight])[:, None].to(both.dtype)
        both = rms_norm(both) * scales
        query, key = rotate(both, cos.unsqueeze(-3), sin.unsqueeze(-3)).unbind(-3)
        return query, key, value

    def finish(self, x: Tensor, attended: Tensor) -> Tensor:
        """Residual connections around the attended (..., heads, Q, head_dim) and the MLP."""
        x = x + self.merge(attended.transpose(-3, -2).flatten(-2))
        return x + self.down(F.gelu(self.up(self.mlp_norm(x))))


class CodeDigits(nn.Module):
    """FSQ codes by their digits: logits (..., codes) and embeddings are sums over digits. Zero before training.

    ``said`` are the codes that have an id; none named means all of ``num_codes``.
    """

    has_digit: Tensor
    digits: Tensor

    def __init__(self, levels: tuple[int, ...], said: tuple[int, ...], num_codes: int, width: int) -> None:
        super().__init__()
        made = len(said) or prod(levels)
        if made != num_codes:
            raise ValueError(f"code_levels {levels} make {made} codes, not {num_codes}: use the tokenizer's levels")
        codes, parts, base, first = torch.tensor(said or range(num_codes)), [], 1, 0
        for level in levels:
            parts.append(first + codes // base % level)
            base, first = base * level, first + level
        digits = torch.stack(parts, 1)
        self.register_buffer("digits", digits, persistent=False)  # (codes, levels)
        has_digit = F.one_hot(digits, sum(levels)).sum(1).T.float()
        self.register_buffer("has_digit", has_digit, persistent=False)  # (digits, codes)
        self.head = nn.Linear(width, sum(levels), bias=False)
        nn.init.zeros_(self.head.weight)
        self.fed, self.previous = (nn.Parameter(torch.zeros(sum(levels), width)) for _ in range(2))

    def forward(self, hidden: Tensor) -> Tensor:
        return self.head(hidden) @ self.has_digit.to(hidden.dtype)

    def embed(self, ids: Tensor, table: Tensor) -> Tensor:
        """Local ids (...), -1 for none, by one of the two tables: (..., width)."""
        summed = F.embedding(self.digits[ids.clamp_min(0)], table).sum(-2)
        return summed * (ids >= 0)[..., None].to(summed.dtype)


@dataclass(frozen=True, kw_only=True)
class DynamicsBatch:
    """Scenes for teacher forcing, local ids and float states (B scenes of T blocks, block 0 the first frame).

    ``input_states`` (B, T, F): the state a step starts from as the model is to see it, possibly perturbed;
    block 0's is not read. ``states``: the true state each step leads to. ``input_video`` (B, T, V): the video
    ids as fed back, possibly corrupted. ``event``: what block ``event_block`` alone is told, if anything is.
    """

    text: Int[Tensor, "B max_text"]  # -1 pads
    static: Int[Tensor, "B S0"]
    actions: Int[Tensor, "B T A"]  # -1 in block 0 and where nobody steers
    state_ids: Int[Tensor, "B T S"]
    states: Float[Tensor, "B T F"]
    input_states: Float[Tensor, "B T F"]
    video: Int[Tensor, "B T V"]
    input_video: Int[Tensor, "B T V"]
    event: Int[Tensor, "B max_event"] | None = None  # -1 pads
    event_block: Int[Tensor, " B"] | None = None


@dataclass(frozen=True)
class KeysValues:
    """Keys and values of all layers, (depth, B, heads, n, head_dim) each."""

    keys: Float[Tensor, "depth B heads n head_dim"]
    values: Float[Tensor, "depth B heads n head_dim"]

    def last(self, count: int) -> KeysValues:
        return KeysValues(self.keys[..., -count:, :], self.values[..., -count:, :])


@dataclass(frozen=True)
class Logits:
    """header: (B, header, vocabulary); state: (B, T, S, local state ids); video: (B, T, V, codes), or (B, T, n, codes)
    where n cells were asked for; outcome: of the picture, see ``FrameOutcome``. Video and outcome are None where they
    were not asked for or cannot be."""

    header: Tensor
    state: Tensor
    video: Tensor | None = None
    outcome: OutcomeLogits | None = None


class Dynamics(nn.Module):
    """Predicts text, state and video ids of the stream described by ``layout``."""

    static_range: Tensor  # local ids that each static slot may take, (S0, 2); the others of state slots, (S, 2)
    absolute_range: Tensor
    change_range: Tensor
    step_kinds: Tensor  # the modality of each slot of a step

    def __init__(self, config: DynamicsConfig, layout: Layout, schema: StateSchema) -> None:
        super().__init__()
        self.config, self.layout, self.schema = config, layout, schema
        vocabulary, width = layout.vocabulary, config.width
        for k in config.tokens_per_pass:
            if k < 1 or layout.num_video % k:
                raise ValueError(f"tokens_per_pass {k} does not divide the {layout.num_video} ids of a frame")
        self.state_modes = config.state_tokens_per_pass or (max(1, layout.num_state),)
        for k in self.state_modes:
            if not 1 <= k <= max(1, layout.num_state):
                raise ValueError(
                    f"state_tokens_per_pass {k} is not between 1 and the {layout.num_state} ids of a state"
                )
        self.embed = nn.Embedding(len(vocabulary), width)
        self.modality = nn.Embedding(5, width)
        self.static_slot = nn.Embedding(max(1, layout.num_static), width)
        self.state_slot = nn.Embedding(max(1, layout.num_state), width)
        self.cell = nn.Embedding(layout.num_video, width)
        self.previous = nn.Embedding(vocabulary.size("video"), width)
        self.pass_size = nn.Embedding(len(config.tokens_per_pass), width)
        self.state_pass_size = nn.Embedding(len(self.state_modes), width) if len(self.state_modes) > 1 else None
        has_state, words = layout.num_state > 0, vocabulary.size("text") if config.max_event else 0
        self.state_painter = state_painter(schema, width, words)
        self.scene_painter = scene_painter(schema, layout.grid, width, moments=2) if has_state else None
        shown = config.show_values and speaks_unplaced(schema)
        self.value_painter = StateMap(schema, layout.num_video, width) if shown else None
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = RMSNorm(width)
        self.header_head = nn.Linear(width, len(vocabulary), bias=False)
        self.state_head = nn.Linear(width, max(1, vocabulary.size("state")))
        self.video_head = nn.Linear(width, vocabulary.size("video"))
        self.copy = nn.Linear(width, 1)
        self.outcome = outcome_reader(schema, vocabulary.size("state")) if config.read_outcome else None
        in_frames = bool(config.rewards or config.predict_end)
        codes = vocabulary.size("video")
        self.frame_outcome = (
            FrameOutcome(width, codes, layout.grid, config.rewards, config.predict_end) if in_frames else None
        )
        acts = config.predict_action and bool(schema.actions)
        self.digits = CodeDigits(config.code_levels, config.said, codes, width) if config.code_levels else None
        parts = None if self.digits is None else self.digits.digits
        self.action_prior = ActionPrior(schema.actions, PictureSummary(codes, layout.grid, parts)) if acts else None
        self.nearby = self.summary = None
        if config.nearby_width:
            self.nearby = NearbyCells(codes, layout.grid, width, config.nearby_width, config.nearby_blocks, parts)
        if config.memory and not has_state:
            self.summary = PictureSummary(codes, layout.grid, parts)
            self.summed = nn.Linear(self.summary.size, width)
        self.register_buffer("step_kinds", layout.step_modality, persistent=False)
        codec = StateCodec(schema)
        self.register_buffer("static_range", codec.legal_ranges("static"), persistent=False)
        self.register_buffer("absolute_range", codec.legal_ranges("absolute"), persistent=False)
        self.register_buffer("change_range", codec.legal_ranges("change"), persistent=False)
        self._initialise()

    def _initialise(self) -> None:
        for module in self.modules():
            if isinstance(module, nn.Embedding):
                nn.init.normal_(module.weight, std=0.02)
        for block in self.blocks:
            assert isinstance(block, Block)
            for last in (block.merge, block.down):
                nn.init.normal_(last.weight, std=0.02 / (2 * self.config.depth) ** 0.5)
        nn.init.constant_(self.copy.bias, 3.0)

    @property
    def device(self) -> torch.device:
        return self.embed.weight.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embed.weight.dtype

    @property
    def simulates_alone(self) -> bool:
        """Whether a step's state, reward and end are known without its picture."""
        return self.layout.num_state > 0 and not self.config.state_sees_video and self.frame_outcome is None

    # -- embeddings ---------------------------------------------------------------------------------

    def embed_header(self, ids: Int[Tensor, "B header"]) -> Float[Tensor, "B header width"]:
        """Global header ids (B, A) to inputs (B, A, width): each slot is given the id before it."""
        layout = self.layout
        before = F.pad(ids[:, :-1], (1, 0), value=layout.vocabulary.special("pad"))
        x = self.embed(before) + self.modality(layout.header_modality.to(ids.device))
        slots = torch.zeros_like(x)
        slots[:, layout.header_static] = self.static_slot.weight[: layout.num_static].to(x.dtype)
        return x + slots

    def embed_action(self, actions: Int[Tensor, "*b A"]) -> Float[Tensor, "*b A width"]:
        """Local actions (..., A), -1 for none, to inputs (..., A, width)."""
        return self.embed(self.layout.action_ids(actions))

    def whole_action(self, parts: Float[Tensor, "N A width"]) -> Float[Tensor, "N 1 width"]:
        """What slots are told of an action: all of its parts."""
        return parts if self.layout.num_action == 1 else parts.sum(1, keepdim=True)

    def condition_state(
        self,
        actions: Int[Tensor, "N A"],
        state: Float[Tensor, "N F"],
        known: Bool[Tensor, " N"],
        event: Float[Tensor, "N width"] | None = None,
        k: int | None = None,
        previous_ids: Int[Tensor, "N V"] | None = None,
    ) -> Float[Tensor, "N slots width"]:
        """What a step's action and state slots know before any of its ids is known, (N, A + S, width).

        ``actions`` (N, A); ``state`` (N, F) the state the step starts from, read only where ``known`` (N,) (a first
        step starts from none, id by id); ``event`` (N, width) as :meth:`condition_event` makes it; ``k``, one of
        ``state_modes``, ids of the state are predicted per pass (by default the first); ``previous_ids`` (N, V) are the
        last picture's, -1 or None for none, which are read where there is no state.
        """
        layout, act = self.layout, self.embed_action(actions)
        kinds = self.modality(self.step_kinds[: layout.num_settled])
        if not layout.num_state:
            if self.summary is not None and previous_ids is not None:
                seen = self.summed(self.summary(previous_ids.clamp_min(0)))
                act = act + (seen * (previous_ids[:, :1] >= 0).to(act.dtype))[:, None]
            return act + kinds
        assert self.state_painter is not None
        painted = self.state_painter(state, event)
        if self.state_pass_size is not None:
            painted = painted + self.state_pass_size.weight[self.state_modes.index(k or self.state_modes[0])]
        x = self.whole_action(act) + self.state_slot.weight + painted * known[:, None, None].to(act.dtype)
        return torch.cat([act, x], 1) + kinds

    def feed_state(
        self, conditioning: Float[Tensor, "N slots width"], input_ids: Int[Tensor, "N n"]
    ) -> Float[Tensor, "N slots width"]:
        """Adds the ids (N, n) that lie k places earlier, -1 for none, to the last n of these slots' conditioning."""
        fed = self.embed(self.layout.state_ids(input_ids))
        return conditioning + F.pad(fed, (0, 0, conditioning.shape[1] - fed.shape[1], 0))

    def not_yet_read(self, k: int) -> list[int]:
        """State slots whose input, k places earlier in the same step, is read only when the state is whole."""
        read = [] if self.outcome is None else self.outcome.slots
        return [slot + k for slot in read if slot + k < self.layout.num_state]

    def embed_state(self, actions: Tensor, input_ids: Tensor, state: Tensor, known: Tensor) -> Tensor:
        """Action and state slots of one step, (N, A + S, width), in one pass; see :meth:`condition_state`."""
        return self.feed_state(self.condition_state(actions, state, known), input_ids)

    def condition_frame(
        self,
        actions: Int[Tensor, "N A"],
        previous_ids: Int[Tensor, "N V"],
        state: Float[Tensor, "N F"],
        shown: Float[Tensor, "N F"],
        k: int,
    ) -> Float[Tensor, "N V width"]:
        """What each video slot of one step knows before any of its ids is known, (N, V, width).

        ``previous_ids`` (N, V) are the last frame's, -1 for none; ``state`` (N, F) is the state to draw and
        ``shown`` (N, F) the one that the previous picture shows.
        """
        action = self.whole_action(self.embed_action(actions))
        x = self.cell.weight + action
        x = x + self.previous(previous_ids.clamp_min(0)) * (previous_ids >= 0)[..., None].to(x.dtype)
        if self.digits is not None:
            x = x + self.digits.embed(previous_ids, self.digits.previous)
        x = x + self.modality.weight[int(self.layout.step_modality[-1])]
        x = x + self.pass_size.weight[self.config.tokens_per_pass.index(k)]
        if self.nearby is not None:
            x = x + self.nearby(previous_ids, action)
        painter = self.scene_painter or self.value_painter
        return x if painter is None else x + painter(state, shown)

    def feed_frame(
        self, conditioning: Float[Tensor, "N n width"], input_ids: Int[Tensor, "N n"]
    ) -> Float[Tensor, "N n width"]:
        """Adds the ids (N, n) that lie k places earlier, -1 for none, to these slots' conditioning (N, n, width)."""
        return conditioning + self._embed_codes(input_ids)

    def _embed_codes(self, ids: Tensor) -> Tensor:
        """Local video ids (...), -1 for none, as inputs (..., width)."""
        x = self.embed(self.layout.video_ids(ids))
        return x if self.digits is None else x + self.digits.embed(ids, self.digits.fed)

    # -- heads --------------------------------------------------------------------------------------

    def state_logits(self, hidden: Float[Tensor, "*b S width"], legal: Int[Tensor, "S 2"]) -> Float[Tensor, "*b S ids"]:
        """(..., S, width) to logits over local state ids, in which only each slot's ``legal`` ones (S, 2) count."""
        return only_legal(self.state_head(hidden), legal)

    def outcome_logits(
        self, state: Float[Tensor, "*b F"], previous: Float[Tensor, "*b F"]
    ) -> Float[Tensor, "*b O ids"]:
        """States (..., F) at a step's end and beginning to logits (..., O, local state ids) of its outcome's slots."""
        assert self.outcome is not None
        logits = self.outcome(state.flatten(0, -2), previous.flatten(0, -2)).unflatten(0, state.shape[:-1])
        return only_legal(logits, self.absolute_range[self.outcome.places])

    def video_logits(
        self, hidden: Float[Tensor, "*b n width"], previous_ids: Int[Tensor, "*b n"]
    ) -> Float[Tensor, "*b n codes"]:
        """(..., V, width) to logits over codes; a learned gate favours the previous id at the same place."""
        logits = self.video_head(hidden)
        if self.digits is not None:
            logits = logits + self.digits(hidden)
        gate = self.copy(hidden) * (previous_ids >= 0)[..., None].to(logits.dtype)
        return logits.scatter_add(-1, previous_ids.clamp_min(0)[..., None], gate.to(logits.dtype)).float()

    # -- the functional core ------------------------------------------------------------------------

    def core(
        self,
        x: Tensor,
        cos: Tensor,
        sin: Tensor,
        past: list[KeysValues],
        bias: Tensor | None,
        backend: str = "sdpa",
    ) -> tuple[Tensor, KeysValues]:
        """One pass: inputs (B, Q, width) attend to the past and to themselves under one softmax.

        ``past`` are pieces of rotated keys and values, (depth, B, heads, P_i, head_dim) each; ``bias``
        broadcasts to (B, 1, Q, sum P_i + Q). Nothing is written in place: the caller commits the new keys and
        values, (depth, B, heads, Q, head_dim).
        """
        new_keys, new_values = [], []
        for layer, block in enumerate(self.blocks):
            query, key, value = block.project(x, cos, sin)  # type: ignore[operator]
            new_keys.append(key)
            new_values.append(value)
            keys = [*(piece.keys[layer] for piece in past), key]
            values = [*(piece.values[layer] for piece in past), value]
            x = block.finish(x, attend(query, keys, values, bias, backend))  # type: ignore[operator]
        return self.norm(x), KeysValues(torch.stack(new_keys), torch.stack(new_values))

    # -- putting a scene into words -----------------------------------------------------------------

    def scene_prompt(self, static: Tensor, state_ids: Tensor, states: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A scene to be put into words: inputs (N, S0 + A + S, width), and their cos and sin.

        ``static`` (N, S0) and ``state_ids`` (N, S) are its local ids, absolute ones; ``states`` (N, F) its values.
        """
        layout, v = self.layout, self.layout.vocabulary
        known = torch.ones(len(static), dtype=torch.bool, device=static.device)
        nobody = torch.full((len(static), layout.num_action), -1, device=static.device)
        still = self.embed(layout.state_ids(static)) + self.static_slot.weight[: layout.num_static]
        still = still + self.modality.weight[int(Modality.STATE)]
        x = torch.cat([still, self.embed_state(nobody, state_ids, states, known)], 1)
        place = torch.cat([layout.header_place[layout.header_static], layout.step_place[: layout.num_settled]])
        return x + self.embed.weight[v.special("read")], *self.positions(torch.tensor(0), place)

    def words(self, ids: Tensor, first: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Global text ids (N, n), the first of them at the caption's place ``first``, as inputs of the slots after
        them: (N, n, width), and their cos and sin."""
        start = self.layout.header_text.start + first
        place = self.layout.header_place[start : start + ids.shape[1]]
        return self.embed(ids) + self.modality.weight[int(Modality.TEXT)], *self.positions(torch.tensor(0), place)

    def caption_logits(self, static: Tensor, state_ids: Tensor, states: Tensor, caption: Tensor) -> Tensor:
        """Logits (N, n, vocabulary) of the ids that follow each of a ``caption``'s (N, n), from its <text> on."""
        prompt, words = self.scene_prompt(static, state_ids, states), self.words(caption)
        x, cos, sin = (torch.cat([a, b], -2) for a, b in zip(prompt, words, strict=True))
        count, length = prompt[0].shape[1], x.shape[1]
        seen = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
        seen[:count, :count] = True
        hidden, _ = self.core(x, cos, sin, [], bias_of(seen, self.attention_dtype)[None, None])
        return self.header_head(hidden[:, count:]).float()

    def positions(self, step: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin for tokens at ``place`` (Q, 2) of ``step`` (...): each (..., Q, head_dim)."""
        step = step.cpu().long()
        position = torch.cat(
            [
                step[..., None, None].expand(*step.shape, len(place), 1),
                place.expand(*step.shape, -1, -1),
            ],
            -1,
        )
        return cos_sin(position, self.config.head_dim, self.device, self.attention_dtype)

    def header_bias(self, ids: Tensor) -> Tensor:
        """(B, 1, A, A): causal, and padding is not seen. ``key_bias`` of the header for later steps is its last row."""
        length = ids.shape[1]
        causal = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
        real = ids != self.layout.vocabulary.special("pad")
        return bias_of(causal & real[:, None], self.attention_dtype)[:, None]

    def pass_of_slot(self, k: int, state_k: int) -> Tensor:
        """In which pass of its step each slot is settled: int64 (step_length,)."""
        layout = self.layout
        state = torch.arange(layout.num_state) // max(1, state_k)
        video = layout.cell_order(k).argsort() // k + (int(state[-1]) + 1 if len(state) else 1)
        return torch.cat([torch.zeros(layout.num_action, dtype=torch.long), state, video])

    # -- teacher forcing ----------------------------------------------------------------------------

    def forward(
        self,
        batch: DynamicsBatch,
        k: int,
        *,
        state_k: int | None = None,
        with_video: bool = True,
        cells: Int[Tensor, "B T n"] | None = None,
    ) -> Logits:
        """Logits for every id of a batch of scenes, each predicted from exactly what streaming would show it.

        ``k`` is the number of video tokens per pass, ``state_k`` that of state tokens (the default mode's, if None); a
        first state goes id by id. ``with_video=False`` runs the state's part alone, which is exact when the state does
        not look at video. ``cells`` are those whose ids are asked for in each frame, all of them if None: the others
        need no last block, whose output nobody reads.
        """
        layout, config, window = self.layout, self.config, self.config.window
        batch_size, steps = batch.actions.shape[:2]
        device, count = self.device, layout.num_settled
        assert with_video or not config.state_sees_video

        header_ids = layout.pack_header(batch.text, batch.static, batch.event)
        header = self.embed_header(header_ids)
        header_bias = self.header_bias(header_ids)

        flat = {name: getattr(batch, name).flatten(0, 1) for name in ("actions", "states", "input_states")}
        state_k = state_k or self.state_modes[0]
        shifted = _shift(batch.state_ids, state_k, first_by=1)
        shifted[:, 1:, self.not_yet_read(state_k)] = -1
        known = (torch.arange(steps, device=device) > 0).repeat(batch_size)
        event = self._condition_blocks(batch, steps)
        before = F.pad(batch.input_video[:, :-1], (0, 0, 1, 0), value=-1)
        told = before.flatten(0, 1) if with_video else None
        x = self.condition_state(flat["actions"], flat["input_states"], known, event, state_k, told)
        x = self.feed_state(x, shifted.flatten(0, 1))
        if with_video:
            order = layout.cell_order(k).to(device)
            fed = _shift(batch.input_video[..., order], k, first_by=k)[..., order.argsort()].flatten(0, 1)
            shown = torch.cat([batch.states[:, :1], batch.states[:, :-1]], 1).flatten(0, 1)
            conditioning = self.condition_frame(flat["actions"], before.flatten(0, 1), flat["states"], shown, k)
            x = torch.cat([x, self.feed_frame(conditioning, fed)], 1)
        length = x.shape[1]
        x = x.unflatten(0, (batch_size, steps))  # (B, T, Q, width)

        place = layout.step_place[:length]
        cos, sin = (c[:, None] for c in self.positions(torch.arange(steps), place))  # (T, 1, Q, d)
        origin_cos, origin_sin = self.positions(torch.tensor(0), layout.header_place)
        far = torch.arange(steps) - window - 1
        turn = self.turn(far)  # (T, 1, 1, d) each
        biases = self._block_biases(header_bias, batch.event_block, steps, length, k, state_k)

        for depth, block in enumerate(self.blocks, 1):
            query, key, value = block.project(header, origin_cos, origin_sin)  # type: ignore[operator]
            header = block.finish(header, attend(query, [key], [value], header_bias))  # type: ignore[operator]
            q, keys, values = block.project(x, cos, sin)  # type: ignore[operator]  # (B, T, heads, Q, d)
            far_keys, far_values = [], []
            for i in range(1, min(config.anchor_frames, steps - 1) + 1):
                home = self.turn(torch.tensor([-i]))
                far_keys.append(rotate(keys[:, i], *(c[0] for c in home)))
                far_values.append(values[:, i])
            if cells is not None and depth == config.depth:
                x, q, biases = _only_asked(x, q, biases, cells, count)
            q, parts = q.flatten(0, 1), []
            for rows, reach, bias in biases:  # the state's slots see only the others' first ``reach`` slots
                far_key = rotate(torch.cat([key, *(a[:, :, :reach] for a in far_keys)], 2)[:, None], *turn)
                far_value = torch.cat([value, *(a[:, :, :reach] for a in far_values)], 2)
                far_value = far_value[:, None].expand(-1, steps, -1, -1, -1)
                old_key, old_value = (
                    _windows(part[..., :count, :], config.long, window + 1) for part in (keys, values)
                )
                near_key, near_value = (_windows(part[..., :reach, :], window) for part in (keys, values))
                all_keys = torch.cat([far_key, old_key, near_key], 3).flatten(0, 1)
                all_values = torch.cat([far_value, old_value, near_value], 3).flatten(0, 1)
                parts.append(attend(q[:, :, rows], [all_keys], [all_values], bias))
            attended = torch.cat(parts, 2).unflatten(0, (batch_size, steps))
            x = block.finish(x, attended)  # type: ignore[operator]

        x, header = self.norm(x), self.norm(header)
        hidden = x[:, :, layout.step_state]
        state = torch.cat(
            [
                self.state_logits(hidden[:, :1], self.absolute_range),
                self.state_logits(hidden[:, 1:], self.change_range),
            ],
            1,
        )
        if self.outcome is not None and steps > 1:
            state = state.clone()
            state[:, 1:, self.outcome.slots] = self.outcome_logits(batch.states[:, 1:], batch.input_states[:, 1:])
        video = outcome = None
        if with_video:
            video = self.video_logits(x[:, :, count:], before if cells is None else before.gather(-1, cells))
            if self.frame_outcome is not None:
                told = conditioning.unflatten(0, (batch_size, steps))
                outcome = self.frame_outcome(told, batch.input_video, before)
        return Logits(self.header_head(header).float(), state, video, outcome)

    def condition_event(self, event: Tensor) -> Tensor | None:
        """What state slots are told of events, local text ids (B, max_event), -1 for none: (B, width), zero where
        there is none; None in a world that can be told nothing."""
        painter = self.state_painter
        return None if painter is None or painter.words is None else painter.listen(event)

    def _condition_blocks(self, batch: DynamicsBatch, steps: int) -> Tensor | None:
        """The same for each block, (B * T, width)."""
        condition = None if batch.event is None or batch.event_block is None else self.condition_event(batch.event)
        if condition is None or batch.event_block is None:
            return None
        there = torch.arange(steps, device=self.device) == batch.event_block[:, None]
        return (condition[:, None] * there[..., None]).flatten(0, 1)

    def overlapping(self, states: Tensor) -> Tensor:
        """In which states (N, F) bodies stand in one another, bool (N,); in none where nothing has a place."""
        if self.state_painter is None:
            return torch.zeros(len(states), dtype=torch.bool, device=states.device)
        return self.state_painter.overlapping(states)

    def turn(self, steps: Tensor) -> tuple[Tensor, Tensor]:
        """cos and sin that move keys by so many steps and leave their place: (n, 1, 1, d) each."""
        cos, sin = self.positions(steps, torch.zeros(1, 2, dtype=torch.long))
        return cos[:, None], sin[:, None]

    def _block_biases(
        self, header_bias: Tensor, event_block: Tensor | None, steps: int, length: int, k: int, state_k: int
    ) -> list[tuple[slice, int, Tensor]]:
        """What each query of each block may see, as (query rows, how many slots of a step are keys, bias) parts."""
        layout, window, device = self.layout, self.config.window, self.device
        batch_size, count = len(header_bias), layout.num_settled
        header_seen = (header_bias[:, 0, -1] == 0)[:, None].expand(-1, steps, -1)  # (B, T, A)
        t = torch.arange(steps, device=device)
        if event_block is not None:
            caption = torch.arange(header_seen.shape[2], device=device) < layout.scene_end
            header_seen = header_seen & (caption | (t == event_block[:, None])[..., None])
        anchored = [t > window + i for i in range(1, min(self.config.anchor_frames, steps - 1) + 1)]

        def reached(longest: int, shortest: int, slots: int) -> Tensor:
            """Of steps so many back, (T, steps times slots)."""
            ages = torch.arange(longest, shortest - 1, -1, device=device)
            return (t[:, None] >= ages).repeat_interleave(slots, 1)

        order = [self.pass_of_slot(k, 1), *[self.pass_of_slot(k, state_k)] * (steps - 1)]
        passes = torch.stack(order)[:, :length].to(device)
        inside = passes[:, None, :] <= passes[:, :, None]  # (T, Q, Q)

        def part(rows: slice, reach: int) -> tuple[slice, int, Tensor]:
            anchors = torch.stack(anchored, 1).repeat_interleave(reach, 1) if anchored else inside.new_zeros(steps, 0)
            past = [anchors, reached(self.config.long, window + 1, count), reached(window, 1, reach)]
            seen = torch.cat([header_seen, torch.cat(past, 1).expand(batch_size, -1, -1)], 2)
            own = inside[:, rows, :reach].expand(batch_size, -1, -1, -1)
            allowed = torch.cat([seen[:, :, None].expand(-1, -1, own.shape[2], -1), own], 3)
            return rows, reach, bias_of(allowed.flatten(0, 1), self.attention_dtype)[:, None]

        parts = [part(slice(0, count), length if self.config.state_sees_video else count)]
        if length > count:
            parts.append(part(slice(count, length), length))
        return parts

    @property
    def attention_dtype(self) -> torch.dtype:
        """What attention runs in: autocast's type while it is on, else the weights'."""
        kind = self.device.type
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else self.dtype


def only_legal(logits: Tensor, legal: Tensor) -> Tensor:
    """Logits (..., n, ids) in which only each slot's ``legal`` ids (n, 2), from and to, count."""
    ids = torch.arange(logits.shape[-1], device=logits.device)
    return logits.float().masked_fill((ids < legal[:, :1]) | (ids >= legal[:, 1:]), -torch.inf)


def bias_of(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros(allowed.shape, dtype=dtype, device=allowed.device).masked_fill_(~allowed, _HIDDEN)


def _shift(ids: Tensor, k: int, *, first_by: int) -> Tensor:
    """Ids (B, T, n) moved k places later through the steps, and within the first step by ``first_by``; -1 fills."""
    _, steps, length = ids.shape
    moved = F.pad(ids.flatten(1), (k, 0), value=-1)[:, : steps * length].unflatten(1, (steps, length)).clone()
    moved[:, 0] = F.pad(ids[:, 0], (first_by, 0), value=-1)[:, :length]
    return moved


def _only_asked(
    x: Tensor, query: Tensor, biases: list[tuple[slice, int, Tensor]], cells: Tensor, count: int
) -> tuple[Tensor, Tensor, list[tuple[slice, int, Tensor]]]:
    """Inputs (B, T, Q, width), queries (B, T, heads, Q, d) and biases of a step's first ``count`` slots and of these
    cells (B, T, n) alone."""
    size, steps, asked = cells.shape
    slots = torch.cat([torch.arange(count, device=x.device).expand(size, steps, -1), count + cells], -1)[..., None]
    x = x.gather(2, slots.expand(-1, -1, -1, x.shape[-1]))
    query = query.gather(3, slots[:, :, None].expand(-1, -1, query.shape[2], -1, query.shape[-1]))
    *others, (_, reach, bias) = biases
    rows = cells.flatten(0, 1)[:, None, :, None].expand(-1, -1, -1, bias.shape[-1])
    return x, query, [*others, (slice(count, count + asked), reach, bias.gather(2, rows))]


def _windows(x: Tensor, longest: int, shortest: int = 0) -> Tensor:
    """(B, T, heads, Q, d) to each step's steps from so many back to so many, (B, T, heads, n * Q, d)."""
    padded, steps = F.pad(x, (0, 0, 0, 0, 0, 0, longest, 0)), x.shape[1]
    parts = [padded[:, i : i + steps] for i in range(longest - shortest + 1)]
    return torch.cat(parts, 3) if parts else x[..., :0, :]
