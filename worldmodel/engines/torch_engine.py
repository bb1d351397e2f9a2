"""Who computes a step: all of it as functions of tensors alone, and PyTorch to run them.

Nothing here remembers anything or writes into what it is given, so that another runtime may take the same functions
over as one graph (``openvino_engine.py``). What becomes of new keys and values is the rollout's affair.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokenizer.causal_conv import StreamingCache
from worldmodel.kv_cache import Past, join, pass_bias
from worldmodel.sampling import sample
from worldmodel.transformer import KeysValues

if TYPE_CHECKING:
    from worldmodel.world import World

ENGINES = ("torch", "openvino", "cuda_graph")


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """How ids are drawn. Temperature 0 takes the likeliest id; ``tokens_per_pass`` and ``state_tokens_per_pass`` None
    mean the default mode.

    ``guidance`` is by how much more than with no caption a scene keeps to its caption: 1 as it was learned, 0 not at
    all (classifier-free guidance, arXiv:2207.12598).
    """

    state_temperature: float = 0.0
    video_temperature: float = 0.0
    scene_temperature: float = 1.0
    top_p: float = 1.0
    guidance: float = 1.0
    tokens_per_pass: int | None = None
    state_tokens_per_pass: int | None = None


@dataclass(frozen=True)
class Stepped:
    """What a step led to: ids (B, S) and state (B, F), video ids (B, V), and keys and values of all its slots."""

    ids: Tensor
    state: Tensor
    video: Tensor
    kept: KeysValues


class Engine:
    """PyTorch, operation by operation.

    Dimension keys: B rows, F values of a state, S its slots, V ids of a frame, Q slots of a step, P kept keys.
    """

    name = "torch"

    def __init__(self, world: World) -> None:
        self.world = world

    def computing(self) -> AbstractContextManager[None]:
        """To be entered for the computations of a step."""
        return nullcontext()

    def step(
        self,
        sampling: Sampling,
        past: Past,
        turn: tuple[Tensor, Tensor],
        actions: Tensor,
        ids: Tensor,
        state: Tensor,
        shown: Tensor,
        video: Tensor,
        cos: Tensor,
        sin: Tensor,
        chance: Tensor,
        limits: Tensor | None = None,
        given: Tensor | None = None,
    ) -> Stepped:
        """Simulates the next state and draws the frame that shows it.

        Args:
            past: what the step may see. turn: cosines and sines (1, head_dim) that move what is far to its place.
            actions: (B,), -1 for none. ids: (B, S), those that led to ``state``.
            state: (B, F), what the step starts from. shown: (B, F), what the last picture shows.
            video: (B, V), the last picture's ids.
            cos, sin: (Q, head_dim) of the step's slots.
            chance: uniform numbers (B, S + V).
            limits: (B, F, 2), within which the state is kept (``state_limits.py``).
            given: (B, V), video ids that are taken as they are where they are not below 0.
        """
        past, slots = past.turned(*turn), ids.shape[1]
        places = cos[: 1 + slots], sin[: 1 + slots]
        steered = () if limits is None else (limits,)
        ids, led, kept = self.simulate(sampling, past, actions, ids, state, *places, chance[:, :slots], *steered)
        drawn, kept = self.draw(sampling, past, kept, actions, video, led, shown, cos, sin, chance[:, slots:], given)
        return Stepped(ids, led, drawn, kept)

    def simulate(
        self,
        sampling: Sampling,
        past: Past,
        actions: Tensor,
        ids: Tensor,
        state: Tensor,
        cos: Tensor,
        sin: Tensor,
        chance: Tensor,
        limits: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, KeysValues]:
        """The state's passes: next ids and state, and keys and values of action and state slots.

        The state is kept within ``limits`` (B, F, 2) before anything is read of it or drawn.
        """
        dynamics, num_state = self.world.dynamics, ids.shape[1]
        seen = past if dynamics.config.state_sees_video else past.without_video
        k = sampling.state_tokens_per_pass or dynamics.state_modes[0]
        canvas = dynamics.state_canvas(actions, state, torch.ones_like(actions, dtype=torch.bool), past.told, k)
        if num_state <= k:
            x = dynamics.feed_state(canvas, ids)
            bias = pass_bias(seen, seen.seen.new_ones(1, x.shape[1]))
            hidden, kept = dynamics.core(x, cos, sin, seen.pieces, bias, self.world.attention)
            if not num_state:
                return ids, state, kept
            logits = dynamics.state_logits(hidden[:, dynamics.layout.step_state], dynamics.change_range)
            ids, probabilities = sample(logits, sampling.state_temperature, chance)
        else:
            ids, probabilities, kept = self._state_in_passes(sampling, seen, canvas, ids, k, cos, sin, chance)
        led = self.world.codec.advance(state, ids, probabilities)
        if limits is not None:
            ids, led = self.world.limiter.keep_step(ids, led, state, limits)
        if dynamics.outcome is not None:
            places = dynamics.outcome.places
            logits = dynamics.outcome_logits(led, state)
            said = sample(logits, sampling.state_temperature, chance[:, places])[0]
            ids = ids.index_copy(1, places, said)
            led = self.world.codec.set_absolute(led, ids)
            if limits is not None:
                ids, led = self.world.limiter.keep_step(ids, led, state, limits)
        return ids, led, kept

    def _state_in_passes(
        self,
        sampling: Sampling,
        seen: Past,
        canvas: Tensor,
        ids: Tensor,
        k: int,
        cos: Tensor,
        sin: Tensor,
        chance: Tensor,
    ) -> tuple[Tensor, Tensor, KeysValues]:
        """k ids of a state at a time, each pass told those before: ids, their probabilities, keys and values."""
        dynamics, num_state, shares = self.world.dynamics, ids.shape[1], []
        seen, unknown = seen.with_room(1 + num_state), dynamics.not_yet_read(k)
        for begin in range(0, num_state, k):
            end = min(begin + k, num_state)
            slots = slice(begin + 1 if begin else 0, end + 1)  # the action slot goes with the first
            fed = ids[:, num_state + begin - k :][:, : end - begin].clone()
            fed[:, [slot - begin for slot in unknown if begin <= slot < end]] = -1
            x = dynamics.feed_state(canvas[:, slots], fed)
            bias = pass_bias(seen, seen.seen.new_ones(1, x.shape[1]))
            hidden, new = dynamics.core(x, cos[slots], sin[slots], seen.pieces, bias, self.world.attention)
            logits = dynamics.state_logits(hidden[:, begin - end :], dynamics.change_range[begin:end])
            drawn, share = sample(logits, sampling.state_temperature, chance[:, begin:end])
            seen.fill(1 + num_state - slots.start, new)
            ids = torch.cat([ids, drawn], 1)
            shares.append(share)
        return ids[:, num_state:], torch.cat(shares, 1), seen.video[-1].last(1 + num_state)

    def draw(
        self,
        sampling: Sampling,
        past: Past,
        kept: KeysValues,
        actions: Tensor,
        previous: Tensor,
        state: Tensor,
        shown: Tensor,
        cos: Tensor,
        sin: Tensor,
        chance: Tensor,
        given: Tensor | None = None,
    ) -> tuple[Tensor, KeysValues]:
        """The video passes of a step whose state slots left ``kept``: ids (B, V), and keys and values of all slots.

        ``given`` ids (B, V) are taken as they are where they are not below 0.
        """
        num_video, settled = previous.shape[1], kept.keys.shape[3]
        k = sampling.tokens_per_pass or self.world.dynamics.config.tokens_per_pass[0]
        canvas = self.canvas(actions, previous, state, shown, k)
        past, fed, drawn = past.followed_by(kept), previous[:, -k:], []
        if k < num_video:  # laid together once, with room for what is drawn: passes differ in what is hidden alone
            past = past.with_room(num_video)
        for begin in range(0, num_video, k):
            here, slots = slice(begin, begin + k), slice(settled + begin, settled + begin + k)
            fed, new = self.video_pass(
                sampling, past, canvas[:, here], fed, previous[:, here], cos[slots], sin[slots], chance[:, here]
            )
            if given is not None:
                fed = torch.where(given[:, here] >= 0, given[:, here], fed)
            drawn.append(fed)
            if k == num_video:
                return fed, join([kept, new])
            past.fill(num_video - begin, new)
        return torch.cat(drawn, 1), past.video[-1].last(settled + num_video)

    def canvas(self, actions: Tensor, previous: Tensor, state: Tensor, shown: Tensor, k: int) -> Tensor:
        """See ``Dynamics.canvas``."""
        return self.world.dynamics.canvas(actions, previous, state, shown, k)

    def video_pass(
        self,
        sampling: Sampling,
        past: Past,
        canvas: Tensor,
        fed: Tensor,
        previous: Tensor,
        cos: Tensor,
        sin: Tensor,
        chance: Tensor,
    ) -> tuple[Tensor, KeysValues]:
        """k ids (B, k) of a picture, and their slots' keys and values. ``fed`` (B, k) are those k places earlier,
        ``previous`` (B, k) the last picture's at the same places."""
        dynamics, own = self.world.dynamics, past.seen.new_ones(1, canvas.shape[1])
        x = dynamics.feed(canvas, fed)
        hidden, new = dynamics.core(x, cos, sin, past.pieces, pass_bias(past, own), self.world.attention)
        logits = dynamics.video_logits(hidden, previous)
        return sample(logits, sampling.video_temperature, chance, sampling.top_p)[0], new

    def decode(self, ids: Tensor, cache: StreamingCache, state: Tensor, begun: Tensor) -> Tensor:
        """See ``VideoTokenizer.decode_step``."""
        return self.world.tokenizer.decode_step(ids, cache, state, begun)


def make_engine(name: str, world: World) -> Engine:
    """Raises ValueError for an unknown name, or for an engine that this machine or world cannot have."""
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}; choose from {', '.join(ENGINES)}")
    if name == "openvino":
        from worldmodel.engines.openvino_engine import OpenVINOEngine

        return OpenVINOEngine(world)
    if name == "cuda_graph":
        from worldmodel.engines.cuda_engine import CUDAGraphEngine

        return CUDAGraphEngine(world)
    return Engine(world)
