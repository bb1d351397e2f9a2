"""Who computes a step: its passes as functions of tensors alone, and PyTorch to run them.

Nothing here remembers anything or writes into what it is given, so that another runtime may take the same functions
over (``openvino_engine.py``). What is sampled from logits, and what becomes of new keys and values, is the rollout's
affair.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from tokenizer.causal_conv import StreamingCache
from worldmodel.transformer import KeysValues

if TYPE_CHECKING:
    from worldmodel.world import World

ENGINES = ("torch", "openvino")


class Engine:
    """PyTorch, operation by operation. Pieces of the past are flat: keys and values of the first, of the next …"""

    name = "torch"

    def __init__(self, world: World) -> None:
        self.world = world

    def state(
        self, actions: Tensor, ids: Tensor, values: Tensor, cos: Tensor, sin: Tensor, bias: Tensor | None, *past: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The state's pass: logits (B, S, local state ids) over legal changes, new keys, new values.

        ``ids`` (B, S) led to the state ``values`` (B, F) that the step starts from.
        """
        dynamics = self.world.dynamics
        known = torch.ones_like(actions, dtype=torch.bool)
        x = dynamics.embed_state(actions, ids, values, known)
        hidden, new = dynamics.core(x, cos, sin, pieces(past), bias, self.world.attention)
        logits = dynamics.state_logits(hidden[:, dynamics.layout.step_state], dynamics.change_range)
        return logits, new.keys, new.values

    def canvas(self, actions: Tensor, previous: Tensor, values: Tensor, shown: Tensor, k: int) -> Tensor:
        """See ``Dynamics.canvas``."""
        return self.world.dynamics.canvas(actions, previous, values, shown, k)

    def video(
        self, canvas: Tensor, fed: Tensor, previous: Tensor, cos: Tensor, sin: Tensor, bias: Tensor | None, *past: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """A pass over k slots of the picture: logits (B, k, codes), new keys, new values.

        ``canvas`` (B, k, width) and ``previous`` (B, k) are these slots' own; ``fed`` (B, k) ids lie k places earlier.
        """
        dynamics = self.world.dynamics
        x = dynamics.feed(canvas, fed)
        hidden, new = dynamics.core(x, cos, sin, pieces(past), bias, self.world.attention)
        return dynamics.video_logits(hidden, previous), new.keys, new.values

    def decode(self, ids: Tensor, cache: StreamingCache, state: Tensor, begun: Tensor) -> Tensor:
        """See ``VideoTokenizer.decode_step``."""
        return self.world.tokenizer.decode_step(ids, cache, state, begun)


def flat(past: Sequence[KeysValues]) -> list[Tensor]:
    return [tensor for piece in past for tensor in (piece.keys, piece.values)]


def pieces(tensors: Sequence[Tensor]) -> list[KeysValues]:
    return [KeysValues(keys, values) for keys, values in zip(tensors[::2], tensors[1::2], strict=True)]


def make_engine(name: str, world: World) -> Engine:
    """Raises ValueError for an unknown name, or for an engine that this machine or world cannot have."""
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}; choose from {', '.join(ENGINES)}")
    if name == "torch":
        return Engine(world)
    from worldmodel.openvino_engine import OpenVINOEngine

    return OpenVINOEngine(world)
