"""Whether a shortcut that depends on values may be taken."""

from __future__ import annotations

import torch
from torch import Tensor


def must_be_branchless(like: Tensor) -> bool:
    """Whether what is computed must not depend on what happens to be shown: for gradients, in graphs, and wherever
    asking for it would keep the device waiting."""
    tracing = torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
    return torch.is_grad_enabled() or tracing or like.device.type != "cpu"
