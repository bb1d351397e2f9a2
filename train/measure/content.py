"""What is in a rollout's pictures and what goes on there: how many things, whether they move, whether all repeats.

No error to a true picture tells these: a second ball, drawn where the real one has none, costs few pixels.
"""

from __future__ import annotations

from collections import Counter

import torch
import torch.nn.functional as F
from torch import Tensor

from train.measure.foreground import differ
from train.measure.measurement import Numbers

COUNTED = 4  # of every so many pictures the things are counted
PLAIN = 40  # levels by which a thing must differ from the median picture; fewer may be a decoder's specks
LEAST_STEPS = 8  # of a rollout that may be seen to repeat itself
REPEATED = 0.1  # of what changes within a period may differ after it


def count_things(masks: Tensor) -> Tensor:
    """How many connected parts each mask has, bool (N, H, W) to (N,); pixels that touch at a corner are connected."""
    numbers = torch.arange(1, masks.shape[1] * masks.shape[2] + 1, dtype=torch.float32)
    own = numbers.view(masks.shape[1:]) * masks
    labels, before = own, torch.empty(0)
    while not labels.equal(before):  # every part takes the largest label in it
        before, labels = labels, F.max_pool2d(labels[:, None], 3, stride=1, padding=1)[:, 0] * masks
    return ((labels == own) & masks).sum((1, 2))


def moves(frames: Tensor) -> Tensor:
    """Whether any pixel changes from each frame of (1 + T, H, W, 3) to the next: bool (T,)."""
    return differ(frames[1:], frames[:-1]).flatten(1).any(1)


def period(frames: Tensor) -> int | None:
    """After how many frames the second half of a video (T, H, W, 3) repeats itself, if it does.

    It does when frames a period apart differ in at most a tenth as many pixels as some that are less far apart. The
    period must fit in twice. What stands still has none.
    """
    length, most = len(frames), 0.0
    half = length - length // 2
    for shift in range(1, half // 2 + 1) if length >= LEAST_STEPS else ():
        changed = differ(frames[-half:], frames[-half - shift : -shift]).double().sum((1, 2)).mean().item()
        if changed < REPEATED * most:
            return shift
        most = max(most, changed)
    return None


class Content:
    """Counts over rollouts, ours beside the real ones and these through the tokenizer (``ceiling``)."""

    def __init__(self) -> None:
        self._sums: Counter[str] = Counter()

    def note(self, median: Tensor, real: Tensor, ours: Tensor, ceiling: Tensor) -> None:
        """A rollout's pictures (1 + T, H, W, 3), one for each step and the one before, and the episode's median."""
        sums, true = self._sums, count_things(differ(real[COUNTED::COUNTED], median, PLAIN))
        for name, frames in (("real", real), ("ours", ours), ("ceiling", ceiling)):
            things = count_things(differ(frames[COUNTED::COUNTED], median, PLAIN))
            sums[f"pixels {name}"] += int(differ(frames[1:], median).sum())
            sums[f"things {name}"] += int(things.sum())
            sums[f"right {name}"] += int((things == true).sum())
        sums["counted"] += (len(real) - 1) // COUNTED
        moving = moves(real)
        sums["moving"] += int(moving.sum())
        sums["frozen"] += int((moving & ~moves(ours)).sum())
        if len(real) > LEAST_STEPS:
            sums["rollouts"] += 1
            sums["looping"] += period(ours[1:]) is not None and period(real[1:]) is None

    def numbers(self) -> Numbers:
        def share(part: str, whole: str) -> float | None:
            return self._sums[part] / self._sums[whole] if self._sums[whole] else None

        return {
            "foreground_amount": share("pixels ours", "pixels real"),
            "foreground_amount_ceiling": share("pixels ceiling", "pixels real"),
            "things": share("things ours", "counted"),
            "things_real": share("things real", "counted"),
            "things_ceiling": share("things ceiling", "counted"),
            "things_right": share("right ours", "counted"),
            "things_right_ceiling": share("right ceiling", "counted"),
            "freezes": share("frozen", "moving"),
            "loops": share("looping", "rollouts"),
        }
