"""What a world in the making consists of: how much of each stage, how long it should take, how long it took.

Kept in one file beside the work. What a stage has begun with does not change, so a killed run ends in the same weights.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from train.worlds.contract import Stage

FILE = "plan.json"
LEAST = 30  # updates of a training
TRAININGS = {"latent actions": "latent", "tokenizer": "tokenizer", "dynamics": "dynamics"}  # and which speed is theirs
_SHARES = {"record": 0.15, "latent actions": 0.2, "tokenizer": 0.45, "dynamics": 1.0}  # of what is left, in this order


@dataclass(frozen=True, kw_only=True)
class Speeds:
    """Seconds, measured here and now.

    start: of a stage before its first piece of work. episode: to record, None where the source is whole already.
    frames: latent frames of an episode. tokenize, label: a latent frame. latent, tokenizer, dynamics: an update.
    evaluate: the whole evaluation.
    """

    start: float
    frames: float
    tokenize: float
    tokenizer: float
    dynamics: float
    evaluate: float
    episode: float | None = None
    latent: float | None = None
    label: float = 0.0


@dataclass(kw_only=True)
class Plan:
    """options: what was asked for. amounts: episodes to record and updates to train, by stage. expected, spent: seconds
    by stage. speeds: what they were reckoned from."""

    options: dict[str, Any]
    amounts: dict[str, int] = field(default_factory=dict)
    expected: dict[str, float] = field(default_factory=dict)
    spent: dict[str, float] = field(default_factory=dict)
    speeds: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, work: Path) -> Plan | None:
        """None where nothing was begun. Raises ValueError for a file that is no plan."""
        path = work / FILE
        if not path.is_file():
            return None
        try:
            return cls(**json.loads(path.read_text(encoding="utf-8")))
        except (TypeError, ValueError) as error:
            raise ValueError(f"{path} is broken ({error}): delete {work} and begin again") from None

    def save(self, work: Path) -> None:
        """Complete or not at all."""
        aside = work / f"{FILE}.part"
        aside.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        aside.replace(work / FILE)

    def keeper(self, work: Path) -> Callable[[Stage, float], None]:
        """Notes what a stage took, and says what is left."""

        def keep(stage: Stage, seconds: float) -> None:
            self.spent[stage.name] = self.spent.get(stage.name, 0.0) + seconds
            self.save(work)
            left = f", {duration(self.left)} left" if self.expected else ""
            print(f"== {stage.name} took {duration(seconds)}{left}", flush=True)

        return keep

    @property
    def gone(self) -> float:
        return sum(self.spent.values())

    @property
    def left(self) -> float:
        """Seconds that what is not done should take."""
        return sum(seconds for name, seconds in self.expected.items() if name not in self.spent)

    def refill(self, name: str, wanted: float, work: Path, each: float | None = None) -> None:
        """Gives a training that has not begun its share of what is left of ``wanted`` seconds; the last gets all.

        ``each``: seconds of an update, if they were measured again.
        """
        if each is not None:
            self.speeds[TRAININGS[name]] = each
        pace, start = self.speeds[TRAININGS[name]], self.speeds["start"]
        left = {other: seconds for other, seconds in self.expected.items() if other not in self.spent}
        others = sum(start if other in TRAININGS else seconds for other, seconds in left.items())
        self.amounts[name] = max(LEAST, int(_SHARES[name] * (wanted - self.gone - others) / pace))
        self.expected[name] = start + self.amounts[name] * pace
        self.save(work)


def share_out(seconds: float, speeds: Speeds, most: int, sample: int) -> tuple[dict[str, int], dict[str, float]]:
    """Amounts that should fill ``seconds`` from here on, and seconds by stage.

    At most ``most`` episodes are recorded, ``sample`` of them are there already. However little time there is, each
    training gets the least that makes sense.
    """
    amounts: dict[str, int] = {}
    expected = dict.fromkeys(("export tokenizer", "export world"), speeds.start) | {"evaluate": speeds.evaluate}
    trained = {name: each for name, key in TRAININGS.items() if (each := getattr(speeds, key)) is not None}
    free = seconds - sum(expected.values()) - (len(trained) + 1) * speeds.start
    handled = speeds.frames * (speeds.tokenize + speeds.label)  # of an episode, beside training
    episodes = sample
    if speeds.episode is not None:
        wanted = int((_SHARES["record"] * free - sample * handled) / (speeds.episode + handled))
        episodes = min(most, sample + max(0, wanted))
        amounts["record"] = episodes
        expected["record"] = speeds.start + (episodes - sample) * speeds.episode
        free -= expected["record"]
    expected["tokenize"] = speeds.start + episodes * speeds.frames * speeds.tokenize
    if speeds.latent is not None:
        expected["label actions"] = speeds.start + episodes * speeds.frames * speeds.label
    free = max(0.0, free - episodes * handled)
    for name, each in trained.items():
        amounts[name] = max(LEAST, int(_SHARES[name] * free / each))
        free = max(0.0, free - amounts[name] * each)
        expected[name] = speeds.start + amounts[name] * each
    return amounts, expected


def duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.1f} min"
