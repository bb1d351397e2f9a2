"""How well pictures show what happens: errors over the pixels that matter, beside what a picture of nothing would get.

Most of a picture is background. So a picture without anything in it scores well over all pixels, and over many steps
better than one that is a little wrong. An episode's *median picture* says what is background, pixel by pixel, over all
its frames. ``foreground`` differs from it; ``moving`` differs from the frame before. Squared errors are pooled over all
episodes: a mean of the decibels of few pixels would be mostly chance, and those of none are infinite.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from train.measure.measurement import Numbers
from train.measure.metrics import decibels, squared_error

LEVELS = 12  # of 255, by which a channel must differ for its pixel to count
REGIONS = ("foreground", "moving")
MARKS = (1, 8, 16, 32)  # steps that get a key of their own


def median_picture(frames: Tensor) -> Tensor:
    """What each pixel of an episode (T, H, W, 3) shows most of the time: (H, W, 3)."""
    return frames.median(0).values


def differ(a: Tensor, b: Tensor, levels: int = LEVELS) -> Tensor:
    """Where pictures uint8 (..., H, W, 3) differ by more than noise: bool (..., H, W)."""
    return (a.to(torch.int16) - b.to(torch.int16)).abs().amax(-1) > levels


def regions(frames: Tensor, median: Tensor) -> dict[str, Tensor]:
    """Which pixels of the frames (1 + T, H, W, 3) that follow the first are of each region: bool (T, H, W)."""
    return {"foreground": differ(frames[1:], median), "moving": differ(frames[1:], frames[:-1])}


class PooledErrors:
    """Squared errors of several makers' pictures, pooled by region and step."""

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.sums: dict[tuple[str, str], Tensor] = {}
        self.counts: dict[tuple[str, str], Tensor] = {}

    def note(self, maker: str, made: Tensor, truth: Tensor, where: Mapping[str, Tensor]) -> None:
        """Pictures (n, r, H, W, 3) of the first ``n`` steps; where they count is bool (n, r, H, W) by region."""
        error, zeros = squared_error(made, truth).double(), torch.zeros(self.steps, dtype=torch.double)
        for region, counts in where.items():
            key = region, maker
            self.sums.setdefault(key, zeros.clone())[: len(made)] += torch.where(counts, error, 0.0).sum((1, 2, 3))
            self.counts.setdefault(key, zeros.clone())[: len(made)] += counts.sum((1, 2, 3))

    def psnr(self, region: str, maker: str) -> Tensor:
        """By step, (steps,) in dB; NaN where no pixel counted."""
        errors, counts = self.sums[region, maker], self.counts[region, maker]
        return torch.where(counts > 0, decibels(errors / counts.clamp_min(1)), float("nan"))

    def numbers(self) -> Numbers:
        """``REGION_psnr_MAKER_by_step_db``, and at each mark ``REGION_psnr_db_STEP_MAKER``; maker "" is not named."""
        numbers: Numbers = {}
        for region, maker in self.sums:
            values, name = self.psnr(region, maker), f"_{maker}" if maker else ""
            numbers[f"{region}_psnr{name}_by_step_db"] = values
            for mark in (mark for mark in MARKS if mark <= self.steps):
                numbers[f"{region}_psnr_db_{mark}{name}"] = values[mark - 1]
        return numbers
