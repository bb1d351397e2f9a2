"""Which part of the data trains and which part validates, also where nobody has marked it."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping, Sequence
from functools import cache

from train.data.recording_layout import SPLITS

_log = logging.getLogger(__name__)
_TENTH = 10

Parts = Mapping[str, Mapping[int, range]]


def divide(marks: Sequence[str | None], lengths: Sequence[int], what: str) -> Parts:
    """``{split: {episode: its latent frames in that split}}``.

    Marked episodes go whole where their mark says; unmarked ones train. Where that leaves none for validation, it
    takes every tenth training episode, chosen by its number alone, and of a single one the last tenth of its
    ``lengths`` (latent frames), which no training window may reach into. One logged line says so.
    """
    whole = [range(length) for length in lengths]
    parts: dict[str, dict[int, range]] = {
        split: {i: whole[i] for i, mark in enumerate(marks) if (mark or "train") == split} for split in SPLITS
    }
    train, validation = parts["train"], parts["validation"]
    if validation or not train:
        return parts
    if len(train) == 1:
        ((index, latents),) = train.items()
        cut = len(latents) - max(1, len(latents) // _TENTH)
        train[index], validation[index] = latents[:cut], latents[cut:]
        _say(f"{what} has one training episode and none for validation: its last {len(latents) - cut} steps validate")
        return parts
    drawn = sorted(train, key=_lot)
    chosen = [i for i in drawn if _lot(i) % _TENTH == 0][: len(train) - 1] or drawn[:1]
    for index in sorted(chosen):
        validation[index] = train.pop(index)
    _say(f"{what} has no validation episodes: {len(chosen)} of {len(drawn)} training episodes validate instead")
    return parts


def _lot(index: int) -> int:
    return int.from_bytes(hashlib.sha256(str(index).encode()).digest()[:4], "big")


@cache
def _say(line: str) -> None:
    """Once is enough: every loader of a run divides the same data."""
    _log.warning(line)
