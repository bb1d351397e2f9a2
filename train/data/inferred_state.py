"""What a state of plain numbers consists of, inferred from the numbers themselves.

Every number becomes a field and keeps its name and its place. Its kind is a matter of evidence: a flag is 0 or 1; few
whole numbers from 0 on are categories; what jumps by a turn, from one end to the other, and else moves little is an
angle. Ranges get a margin, but for an end that is come to again and again, which is a wall.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from math import ceil, floor, log10, pi

import numpy as np

from tokenizer.state_schema import Entity, Field, StateSchema

MANY = 32  # numbers of a state, from which on bytes share their ids
MOST_CATEGORIES = 16
_MARGIN = 0.1  # of a range, on either side
_WALL = 3  # how often an end must be come to exactly to be one
_MOST_WHOLE = 256  # whole numbers that get a bin each
_FEWEST_BINS, _MOST_BINS, _MIDDLE_BINS = 64, 256, 16  # the last: at least as many hold the middle half of the values
_JUMPY = 0.2  # of its range, from which on a usual change is a jump
_SPARE = 1.25  # over the largest change that was seen
_EPISODES, _ROWS = 10, 8  # from which on "the same throughout each episode" is believed
_NEAR = 4  # at most so many numbers on from a cosine, its sine is looked for
_TURNS = (("rad", 2 * pi), ("deg", 360.0))


@dataclass(frozen=True)
class InferredState:
    """Entities whose values are the numbers in their order, and a line a field that says what was inferred."""

    entities: tuple[Entity, ...]
    said: tuple[str, ...]


def infer_state(values: Sequence[np.ndarray], names: Sequence[str]) -> InferredState:
    """Infers fields from ``values``, an array ``(steps, D)`` an episode, whose D numbers have ``names``.

    A number called ``a.b`` is field b of entity a, as long as an entity's numbers stand side by side; any other, and
    ``a.0``, is a field of ``state``. Raises ValueError for a number that is not finite, and for names that do not fit.
    """
    episodes = [np.asarray(episode, dtype=np.float64) for episode in values]
    names = _distinct([str(name) for name in names])
    _refuse(episodes, names)
    columns = [_Column(name, [episode[:, i] for episode in episodes]) for i, name in enumerate(names)]
    said_of_circles = _end_circles(columns)
    if len(columns) >= MANY:
        columns = _shared(columns)
    lines = [f"{column.name}: {column.said()}" for column in columns]
    return InferredState(_entities(columns), (*lines, *said_of_circles))


def _distinct(names: list[str]) -> list[str]:
    """Names with a number behind each that is there more than once."""
    return [name if names.count(name) == 1 else f"{name}.{names[:i].count(name)}" for i, name in enumerate(names)]


def _refuse(episodes: Sequence[np.ndarray], names: Sequence[str]) -> None:
    for number, episode in enumerate(episodes):
        if episode.ndim != 2 or episode.shape[1] != len(names):
            raise ValueError(
                f"episode {number} has states of shape {episode.shape}, but {len(names)} names want "
                f"(steps, {len(names)}): give one name a number"
            )
        broken = np.argwhere(~np.isfinite(episode))
        if len(broken):
            step, column = broken[0]
            raise ValueError(
                f"{names[column]} is {episode[step, column]} in step {step} of episode {number}, and only finite "
                "numbers can be learned: mend it at its source, or leave it out of the state"
            )
    if not names or not any(len(episode) for episode in episodes):
        raise ValueError("there are no numbers to infer a state from: record an episode that has some")


# -- one number ---------------------------------------------------------------------------------------


class _Column:
    """One number of a state over all episodes, and the ``field`` that it is taken for."""

    def __init__(self, name: str, episodes: Sequence[np.ndarray]) -> None:
        self.name, self.values = name, np.concatenate(episodes)
        self.changes = np.concatenate([np.diff(episode) for episode in episodes])
        self.arrived = np.concatenate([episode[1:][np.diff(episode) != 0] for episode in episodes])
        self.low, self.high = float(self.values.min()), float(self.values.max())
        self.whole = bool((self.values == np.round(self.values)).all())
        enough = len(episodes) >= _EPISODES and len(self.values) >= _ROWS * len(episodes)
        self.settled = enough and not self.changes.any()
        self.field = replace(self._read(), static=self.settled)

    def _read(self) -> Field:
        if self.low == self.high:
            wide = max(1.0, abs(self.low))
            return self._quantity(self.low - wide, self.high + wide, bins=65)  # the middle one has it exactly
        if self.whole and self.low >= 0 and self.high <= 1:
            return Field(name=self.name, kind="flag", role="value")
        if self.whole and self.low >= 0 and self.high < MOST_CATEGORIES:
            names = tuple(str(i) for i in range(int(self.high) + 1))
            return Field(name=self.name, kind="categorical", role="value", names=names)
        if (turn := self._turn()) is not None:
            return turn
        low, high = self._range()
        if self.whole and (low := floor(low)) < (high := ceil(high)) < low + _MOST_WHOLE:
            return self._quantity(low - 0.5, high + 0.5, bins=high - low + 1)
        return self._moving(self._quantity(low, high, bins=self._bins(high - low)), self.changes)

    def _quantity(self, low: float, high: float, *, bins: int, periodic: bool = False, unit: str = "") -> Field:
        ends = {"low": float(low), "high": float(high), "bins": bins, "periodic": periodic, "unit": unit}
        return Field(name=self.name, kind="continuous", role="value", **ends)

    def _range(self) -> tuple[float, float]:
        """Readable ends with a margin, but for walls."""
        span = self.high - self.low
        low, high = (
            end if (self.arrived == end).sum() >= _WALL else end + side * _MARGIN * span
            for end, side in ((self.low, -1), (self.high, 1))
        )
        if self.low >= 0:
            low = max(low, 0.0)
        unit = 10.0 ** (floor(log10(span)) - 2)
        digits = 4 + max(0, ceil(log10(max(abs(low), abs(high)) / span)))  # however far from zero a small range lies
        return _readable(floor(low / unit + 1e-3) * unit, digits), _readable(ceil(high / unit - 1e-3) * unit, digits)

    def _bins(self, span: float) -> int:
        """So many that the middle half of the values is told apart."""
        middle = float(np.subtract(*np.quantile(self.values, [0.75, 0.25])))
        wanted = _MOST_BINS if middle <= 0 else ceil(_MIDDLE_BINS * span / middle)
        return min(max(wanted, _FEWEST_BINS), _MOST_BINS)

    def _moving(self, f: Field, changes: np.ndarray) -> Field:
        """With changes, where it moves. What mostly jumps about is said anew in each step."""
        sizes = np.abs(changes[changes != 0])
        if self.settled or not len(sizes) or np.median(sizes) > _JUMPY * (self.high - self.low):
            return f
        heavy = sizes.max() > 300 * np.median(sizes)  # small changes beside a large one need finer bins
        return replace(f, change=_readable(_SPARE * sizes.max(), 3), change_bins=257 if heavy else 129)

    def _turn(self) -> Field | None:
        """It as an angle, if it jumps from one end of a turn to the other, and else moves little."""
        for unit, turn in _TURNS:
            for low in (-turn / 2, 0.0):
                slack = 1e-3 * turn
                within = low - slack <= self.low and self.high <= low + turn + slack
                jumps = np.abs(self.changes) > turn / 2
                if not within or not jumps.any() or jumps.all():
                    continue
                short = (self.changes + turn / 2) % turn - turn / 2
                usual = np.abs(self.changes[~jumps]).max()
                if usual <= turn / 4 and np.abs(short[jumps]).max() <= 1.5 * usual:
                    return self._moving(self._quantity(low, low + turn, bins=72, periodic=True, unit=unit), short)
        return None

    def said(self) -> str:
        f, when = self.field, ", the same throughout each episode" if self.settled else ""
        if f.size > 1:
            return f"{f.size} bytes, which share their ids"
        if self.low == self.high:
            return f"always {self.low:.5g} in what was seen"
        if f.kind == "flag":
            return f"a flag{when}"
        if f.kind == "categorical":
            return f"one of {len(f.names)} categories, {f.names[0]} to {f.names[-1]}{when}"
        if f.periodic:
            what = f"an angle that wraps ({f.unit}), for it jumped by a turn"
        else:
            what = f"a {'whole number' if self.whole else 'quantity'}, seen from {self.low:.4g} to {self.high:.4g}"
        reach = "" if f.change is None else f", changes up to {f.change:g} a step"
        return f"{what}; room from {f.low:.4g} to {f.high:.4g} in {f.bins} bins{reach}{when}"


def _readable(value: float, digits: int = 6) -> float:
    return float(f"{value:.{digits}g}") + 0.0  # no -0.0


# -- several numbers ----------------------------------------------------------------------------------


def _end_circles(columns: Sequence[_Column]) -> list[str]:
    """Ends cosines and sines, pairs with a² + b² = 1, at -1 and 1. A line on each."""
    said, taken = [], set[int]()
    fit = [not c.whole and -1.001 < c.low < c.high < 1.001 for c in columns]
    for i, one in enumerate(columns):
        for j in range(i + 1, min(i + 1 + _NEAR, len(columns))):
            other = columns[j]
            if taken & {i, j} or not (fit[i] and fit[j]) or np.abs(one.values**2 + other.values**2 - 1).max() > 2e-3:
                continue
            one.field, other.field = (replace(c.field, low=-1.0, high=1.0) for c in (one, other))
            taken |= {i, j}
            said.append(f"{one.name} and {other.name} are an angle's cosine and sine: write both to turn it")
    return said


def _shared(columns: Sequence[_Column]) -> list[_Column]:
    """Takes bytes side by side, whose names differ in their last number alone, for one field, so that they share ids.

    A memory of 128 bytes then has 256 ids and not 32768.
    """
    kept: list[_Column] = []
    for head, run in groupby(columns, lambda column: column.name.rstrip("0123456789")):
        here = list(run)
        if len(here) >= MANY and all(c.whole and c.low >= 0 and c.high <= 255 for c in here):
            one = here[0]
            one.name = head.rstrip("._") or "bytes"
            one.low, one.high = 0.0, 255.0
            one.field = replace(one._quantity(-0.5, 255.5, bins=256), size=len(here))
            here = [one]
        kept += here
    return kept


def _entities(columns: Sequence[_Column]) -> tuple[Entity, ...]:
    """Entities by what stands before the last dot; one, where nobody would have several numbers side by side."""
    places = [_place(column.name) for column in columns]
    turns, count = sum(a != b for (a, _), (b, _) in pairwise(places)), len({entity for entity, _ in places})
    if turns >= count or count == len(columns):
        places = [("state", column.name) for column in columns]
    grouped: dict[str, list[Field]] = {}
    for (entity, name), column in zip(places, columns, strict=True):
        grouped.setdefault(entity, []).append(replace(column.field, name=name))
    return tuple(Entity(name=name, fields=tuple(found)) for name, found in grouped.items())


def _place(name: str) -> tuple[str, str]:
    entity, _, last = name.rpartition(".")
    return (entity, last) if entity and not last.isdigit() else ("state", name)


# -- numbers that come later --------------------------------------------------------------------------


class StateFitter:
    """Brings states into the range that a schema has for them, and keeps a line a field on what did not fit."""

    def __init__(self, schema: StateSchema) -> None:
        self.schema = schema
        self._worst: dict[str, tuple[float, str]] = {}

    def __call__(self, values: np.ndarray) -> np.ndarray:
        """An episode's states (steps, num_values) as the schema can hold them, float32.

        Raises ValueError for another shape and for numbers that are not finite.
        """
        values = np.asarray(values, dtype=np.float32)
        if values.ndim != 2 or values.shape[1] != self.schema.num_values:
            raise ValueError(
                f"states of shape {values.shape} do not fit {self.schema.name!r}, which has "
                f"{self.schema.num_values} values a step"
            )
        out = values.copy()
        for entity in self.schema.entities:
            for f in entity.fields:
                name, columns = f"{entity.name}.{f.name}", self.schema.columns(entity.name, f.name)
                here = values[:, columns]
                if not np.isfinite(here).all():
                    raise ValueError(f"{name} is no finite number in step {np.argwhere(~np.isfinite(here))[0][0]}")
                out[:, columns] = self._fitted(name, f, here)
        return out

    def _fitted(self, name: str, f: Field, here: np.ndarray) -> np.ndarray:
        low, high = f.low, f.high
        if f.kind == "categorical":
            here, low, high = np.round(here), 0.0, float(len(f.names) - 1)
        elif f.kind != "continuous":
            here, low, high = (here > 0.5).astype(np.float32), 0.0, 1.0
        if f.periodic:
            return (low + (here - low) % (high - low)).astype(np.float32)
        held = here.clip(low, high)
        self._note(name, np.abs(here - held), here, f"is beyond {low:g} to {high:g} and is held there: widen its range")
        if f.static:
            moved = np.abs(held - held[:1])
            self._note(name, moved, held, "moves within an episode and is told once only: give it static: false")
        return held

    def _note(self, name: str, by: np.ndarray, values: np.ndarray, what: str) -> None:
        if by.any() and by.max() > self._worst.get(name, (0.0, ""))[0]:
            self._worst[name] = float(by.max()), f"{name} = {values.flat[by.argmax()]:g} {what}"

    @property
    def said(self) -> tuple[str, ...]:
        """What did not fit so far, the worst of each field."""
        return tuple(line for _, line in self._worst.values())
