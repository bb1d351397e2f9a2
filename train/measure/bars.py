"""What a good world reaches: the bars that hold for any, and how one is judged."""

from __future__ import annotations

import operator
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from train.measure.verdict import FAINT


@dataclass(frozen=True)
class Bar:
    """``key`` is a path into the numbers of an evaluation, ``part.name``. ``above`` names two more numbers of the part,
    of which the first must be 6 dB larger, or nothing is met."""

    key: str
    sign: str
    value: float
    above: tuple[str, str] | None = None

    def verdict(self, numbers: Mapping[str, Any]) -> Verdict | None:
        """None where this was not measured at all."""
        part, name = self.key.split(".")
        if name not in numbers.get(part, {}):
            return None
        found = numbers[part][name]
        met = None if found is None else {"≥": operator.ge, "≤": operator.le}[self.sign](found, self.value)
        more, less = (numbers[part].get(other) for other in self.above or ("", ""))
        if met and more is not None and less is not None and more < less + FAINT:
            met = False
        said = f"{self.sign} {self.value:g}" + (f", {FAINT} above an empty picture" if self.above else "")
        return Verdict(self.key, "–" if found is None else f"{found:.4g}", said, met)


@dataclass(frozen=True)
class Verdict:
    """Figure and bar in words. ``met`` is None where there was nothing to count."""

    key: str
    value: str
    bar: str
    met: bool | None


BARS = (
    Bar("tokenizer.psnr_db", "≥", 32, above=("foreground_psnr_db", "foreground_psnr_db_median")),
    Bar("tokenizer.codebook_used", "≥", 0.95),
    Bar("tokenizer.static_id_change", "≤", 0.01),
    Bar("rollout.delta_psnr_8_db", "≥", 1),
    Bar("rollout.delta_foreground_psnr_8_db", "≥", 1),
    Bar("rollout.reward_f1", "≥", 0.9),
    Bar("rollout.terminated_f1", "≥", 0.9),
    Bar("outcome.reward_f1", "≥", 0.9),
    Bar("upsampler.high_band_ratio", "≥", 0.8),
    Bar("upsampler.temporal_variance", "≤", 0.012),
)


def verdicts(numbers: Mapping[str, Any], more: Sequence[Bar] = ()) -> list[Verdict]:
    """Of the general bars and of a world's own, those that something was measured for."""
    return [verdict for bar in (*BARS, *more) if (verdict := bar.verdict(numbers)) is not None]
