"""What a measure gives back: numbers under the keys that ``train.evaluate`` writes, and pictures for its report.

Distances are shares of the table's width, or of whatever positions range over. Lists "by step" begin with step 1.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

Numbers = dict[str, Any]


@dataclass(frozen=True)
class Pictures:
    """Real beside imagined for the report: uint8 (T, H, W, 3) each, one frame for every latent frame, by episode."""

    real: list[Tensor]
    imagined: list[Tensor]


@dataclass(frozen=True)
class Measurement:
    numbers: Numbers
    pictures: Pictures | None = None


def plain(value: Any) -> Any:
    """Numbers as JSON has them: tensors become numbers or lists, what is not finite None."""
    if isinstance(value, Tensor):
        return plain(value.tolist())
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [plain(part) for part in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
