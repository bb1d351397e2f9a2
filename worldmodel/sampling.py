"""How ids are drawn from logits, reproducibly for each row of a batch on its own."""

from __future__ import annotations

import operator
from dataclasses import asdict, dataclass
from numbers import Real
from typing import Any, cast

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

MOST = 64  # ids that a draw with top_p chooses from: to find them is far quicker than to sort a large codebook


LARGEST = 1e30  # of a temperature, a share or a guidance: what single precision still holds


def whole(name: str, value: Any, least: int) -> int:
    """A whole number of any library, as ``int``. Raises ValueError for anything else, and for one below ``least``."""
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or not least <= number < 2**63:
        raise ValueError(f"{name} is {value!r}: give a whole number from {least} on, below 2**63")
    return number


def tensor_of(name: str, value: Any) -> Tensor:
    """Numbers of any library. Raises ValueError for what is none."""
    try:
        return value if isinstance(value, Tensor) else torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise ValueError(f"{name}: give numbers, as a tensor or an array, not {type(value).__name__}") from None


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

    def __post_init__(self) -> None:
        """Raises ValueError for what is no temperature, share or number."""
        for name, value in asdict(self).items():
            if name.endswith("tokens_per_pass"):
                if value is not None:
                    whole(name, value, 1)
            elif not isinstance(value, Real) or isinstance(value, bool) or not 0 <= cast(float, value) <= LARGEST:
                raise ValueError(f"{name} is {value!r}: give a number, 0 or more")
        if not 0 < self.top_p <= 1:
            raise ValueError(f"top_p is {self.top_p!r}: give a share above 0, at most 1")


def uniforms(generators: list[torch.Generator], count: int, device: torch.device) -> Float[Tensor, "B count"]:
    """One row of ``count`` uniform numbers from each generator: (B, count). A row's numbers are its own affair."""
    return torch.stack([torch.rand(count, generator=g) for g in generators]).to(device)


def sample(
    logits: Float[Tensor, "B n ids"], temperature: float, uniform: Float[Tensor, "B n"], top_p: float = 1.0
) -> tuple[Int[Tensor, "B n"], Float[Tensor, "B n ids"]]:
    """Draws ids (B, n) from logits (B, n, ids) by inverting the cumulative distribution at ``uniform`` (B, n).

    Temperature 0 takes the likeliest. ``top_p`` below 1 draws from the likeliest ids that have so much of the
    probability together, ``MOST`` of them at most. Returns the ids and the probabilities at temperature 1.
    """
    probabilities = logits.softmax(-1)
    if temperature == 0:
        return logits.argmax(-1), probabilities
    drawn, order = probabilities if temperature == 1 else (logits / temperature).softmax(-1), None
    if top_p < 1:
        drawn, order = drawn.topk(min(MOST, drawn.shape[-1]), -1)
        drawn = drawn * ((drawn.cumsum(-1) - drawn) < top_p)
    cumulative = drawn.cumsum(-1)
    threshold = uniform[..., None] * cumulative[..., -1:]
    ids = (cumulative <= threshold).sum(-1)
    last = drawn.shape[-1] - 1 - (drawn > 0).flip(-1).int().argmax(-1)  # rounding must not pick an impossible id
    ids = torch.minimum(ids, last)
    return ids if order is None else order.gather(-1, ids[..., None])[..., 0], probabilities


def entropy(probabilities: Float[Tensor, "*b ids"]) -> Float[Tensor, "*b"]:
    """How unsure a distribution (..., ids) is, in nats (...): 0 where one id has it all."""
    return torch.special.entr(probabilities).sum(-1)
