"""A step as functions of tensors alone, and PyTorch to run them, operation by operation.

Nothing here remembers anything or writes into what it is given, so that another runtime may take the same functions
over as one graph (``graph_engine.py``). What becomes of new keys and values is the rollout's affair.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import torch
from torch import Tensor

from tokenizer.causal_conv import StreamingCache
from worldmodel.engines.step import PICTURE, Drawn, Outlook, Simulated, StepQuery, StepResult, StepStart, Wanted
from worldmodel.kv_cache import Past, join, pass_bias
from worldmodel.parts import WorldParts
from worldmodel.sampling import Sampling, entropy, sample
from worldmodel.transformer import KeysValues


class Engine:
    """PyTorch. Dimension keys: see ``step.py``."""

    name = "torch"

    def __init__(self, parts: WorldParts) -> None:
        self.parts = parts

    def computing(self) -> AbstractContextManager[None]:
        """To be entered for the computations of a step."""
        return nullcontext()

    def step(self, sampling: Sampling, start: StepStart, query: StepQuery, wanted: Wanted = PICTURE) -> StepResult:
        """Simulates the next state and draws the frame that shows it, if that is wanted."""
        if start.far is not None:
            start = replace(start, past=start.past.turned(*start.far), far=None)
        made = self.simulate(sampling, start, query, doubt=wanted.doubt)
        if not wanted.picture:
            result = StepResult(made.state_ids, made.state, start.video_ids, made.kept)
            return replace(result, outlook=made.outlook, doubt=made.doubt)
        in_picture = wanted.doubt and made.doubt is None
        drawn = self.draw(sampling, start, query, made.state, made.kept, doubt=in_picture)
        result = StepResult(made.state_ids, made.state, drawn.video_ids, drawn.kept)
        result = replace(result, outlook=made.outlook, doubt=drawn.doubt if in_picture else made.doubt)
        reader = self.parts.dynamics.frame_outcome
        if reader is None:
            return result
        logits = reader(drawn.told, drawn.video_ids, start.video_ids)
        reward, terminated = reader.likeliest(logits)
        return replace(result, reward=reward, terminated=terminated, outlook=Outlook(*reader.expected(logits)))

    # -- the state ------------------------------------------------------------------------------------

    def simulate(self, sampling: Sampling, start: StepStart, query: StepQuery, *, doubt: bool = False) -> Simulated:
        """The state's passes. The state is kept within the query's limits before anything is read of it or drawn."""
        dynamics, codec = self.parts.dynamics, self.parts.codec
        layout, ids, state = dynamics.layout, start.state_ids, start.state
        seen = start.past if dynamics.config.state_sees_video else start.past.without_video
        uniforms, limits = query.uniforms[:, : layout.num_state], query.limits
        k = sampling.state_tokens_per_pass or dynamics.state_modes[0]
        known = query.actions.new_ones(len(query.actions), dtype=torch.bool)
        conditioning = dynamics.condition_state(query.actions, state, known, start.past.event, k, start.video_ids)
        cos, sin = query.cos[: layout.num_settled], query.sin[: layout.num_settled]
        if layout.num_state <= k:
            x = dynamics.feed_state(conditioning, ids)
            bias = pass_bias(seen, seen.seen.new_ones(1, x.shape[1]))
            hidden, kept = dynamics.core(x, cos, sin, seen.pieces, bias, self.parts.attention)
            if not layout.num_state:
                return Simulated(ids, state, kept)
            logits = dynamics.state_logits(hidden[:, layout.step_state], dynamics.change_range)
            ids, probabilities = sample(logits, sampling.state_temperature, uniforms)
        else:
            ids, probabilities, kept = self._state_in_passes(sampling, seen, conditioning, start, query, k)
        if query.fixed_state is not None:
            return Simulated(*query.fixed_state, kept)
        led = codec.advance(state, ids, probabilities)
        if limits is not None:
            ids, led = self.parts.limiter.keep_step(ids, led, state, limits)
        if dynamics.outcome is not None:
            places = dynamics.outcome.places
            logits = dynamics.outcome_logits(led, state)
            drawn, read = sample(logits, sampling.state_temperature, uniforms[:, places])
            ids, probabilities = ids.index_copy(1, places, drawn), probabilities.index_copy(1, places, read)
            led = codec.set_absolute(led, ids)
            if limits is not None:
                ids, led = self.parts.limiter.keep_step(ids, led, state, limits)
        unsure = codec.by_entity(entropy(probabilities)) if doubt else None
        return Simulated(ids, led, kept, Outlook(*codec.outlook(led, probabilities)), unsure)

    def _state_in_passes(
        self, sampling: Sampling, seen: Past, conditioning: Tensor, start: StepStart, query: StepQuery, k: int
    ) -> tuple[Tensor, Tensor, KeysValues]:
        """k ids of a state at a time, each pass told those before: ids, their probabilities, keys and values."""
        dynamics, layout, shares = self.parts.dynamics, self.parts.dynamics.layout, []
        num_state, num_action, ids = layout.num_state, layout.num_action, start.state_ids
        seen, unknown = seen.with_room(layout.num_settled), dynamics.not_yet_read(k)
        for begin in range(0, num_state, k):
            end = min(begin + k, num_state)
            slots = slice(num_action + begin if begin else 0, num_action + end)  # the action goes with the first
            fed = ids[:, num_state + begin - k :][:, : end - begin].clone()
            fed[:, [slot - begin for slot in unknown if begin <= slot < end]] = -1
            x = dynamics.feed_state(conditioning[:, slots], fed)
            bias = pass_bias(seen, seen.seen.new_ones(1, x.shape[1]))
            cos, sin = query.cos[slots], query.sin[slots]
            hidden, new = dynamics.core(x, cos, sin, seen.pieces, bias, self.parts.attention)
            logits = dynamics.state_logits(hidden[:, begin - end :], dynamics.change_range[begin:end])
            drawn, share = sample(logits, sampling.state_temperature, query.uniforms[:, begin:end])
            if query.fixed_state is not None:
                drawn = query.fixed_state[0][:, begin:end]
            seen.fill(layout.num_settled - slots.start, new)
            ids = torch.cat([ids, drawn], 1)
            shares.append(share)
        return ids[:, num_state:], torch.cat(shares, 1), seen.video[-1].last(layout.num_settled)

    # -- the picture ----------------------------------------------------------------------------------

    def draw(
        self,
        sampling: Sampling,
        start: StepStart,
        query: StepQuery,
        state: Tensor,
        kept: KeysValues,
        *,
        doubt: bool = False,
    ) -> Drawn:
        """The video passes of a step that led to ``state`` (B, F) and whose action and state slots left ``kept``."""
        dynamics, previous = self.parts.dynamics, start.video_ids
        num_video, settled = previous.shape[1], kept.keys.shape[3]
        uniforms = query.uniforms[:, query.uniforms.shape[1] - num_video :]
        k = sampling.tokens_per_pass or dynamics.config.tokens_per_pass[0]
        conditioning = self.condition_frame(query.actions, previous, state, start.shown, k)
        past, fed, drawn, unsure = start.past.followed_by(kept), previous, [], []
        order, passes = None, [slice(None)]
        if k < num_video:  # laid together once, with room for what is drawn: passes differ in what is hidden alone
            past, order = past.with_room(num_video), dynamics.layout.cell_order(k).to(previous.device)
            fed, passes = previous[:, order[-k:]], order.split(k)
        for here in passes:
            places = query.cos[settled:][here], query.sin[settled:][here]
            fed, new, spread = self.video_pass(
                sampling, past, conditioning[:, here], fed, previous[:, here], *places, uniforms[:, here], doubt=doubt
            )
            unsure.append(spread)
            if query.fixed_video is not None:
                fixed = query.fixed_video[:, here]
                fed = torch.where(fixed >= 0, fixed, fed)
            if order is not None:
                past.fill(num_video - sum(ids.shape[1] for ids in drawn), new)
            else:
                kept = join([kept, new])
            drawn.append(fed)
        if order is not None:
            fed, kept = torch.cat(drawn, 1)[:, order.argsort()], past.video[-1].last(settled + num_video)
        return Drawn(fed, kept, conditioning, torch.cat(unsure, 1).mean(1, keepdim=True) if doubt else None)

    def condition_frame(self, actions: Tensor, previous: Tensor, state: Tensor, shown: Tensor, k: int) -> Tensor:
        """See ``Dynamics.condition_frame``."""
        return self.parts.dynamics.condition_frame(actions, previous, state, shown, k)

    def video_pass(
        self,
        sampling: Sampling,
        past: Past,
        conditioning: Tensor,
        fed: Tensor,
        previous: Tensor,
        cos: Tensor,
        sin: Tensor,
        uniforms: Tensor,
        *,
        doubt: bool = False,
    ) -> tuple[Tensor, KeysValues, Tensor]:
        """k ids (B, k) of a picture, their slots' keys and values, and the entropy of each, (B, k) if it is asked for.

        ``fed`` (B, k) are the ids k places earlier, ``previous`` (B, k) the last picture's at the same places.
        """
        dynamics, own = self.parts.dynamics, past.seen.new_ones(1, conditioning.shape[1])
        x = dynamics.feed_frame(conditioning, fed)
        hidden, new = dynamics.core(x, cos, sin, past.pieces, pass_bias(past, own), self.parts.attention)
        logits = dynamics.video_logits(hidden, previous)
        ids, probabilities = sample(logits, sampling.video_temperature, uniforms, sampling.top_p)
        return ids, new, entropy(probabilities) if doubt else probabilities.new_zeros(0)

    def decode(self, ids: Tensor, cache: StreamingCache, state: Tensor, begun: Tensor) -> Tensor:
        """See ``VideoTokenizer.decode_step``."""
        return self.parts.tokenizer.decode_step(ids, cache, state, begun)
