"""Linear layers over pixels that lie in the last axis."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def planar(linear: nn.Linear, x: Tensor, bias: Tensor | None = None) -> Tensor:
    """``linear`` over the last axis but one: (..., in, pixels) to (..., out, pixels), with a ``bias`` (..., out) of
    each picture's own in place of the layer's."""
    shape, weight = x.shape[:-2], linear.weight
    bias = linear.bias[:, None] if bias is None else bias.flatten(0, -2)[..., None]
    x = x.flatten(0, -3)
    return torch.bmm(weight.expand(len(x), -1, -1), x).add_(bias).unflatten(0, shape)
