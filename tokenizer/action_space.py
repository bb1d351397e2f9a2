"""What may be done in a world: a Gymnasium space, read as A numbers a step, each of them one id of the stream.

``Dict`` and ``Tuple`` spaces are flattened and vectors taken apart, so an action of any space is a row of A *parts*.
A part is a choice, a yes or no, or a quantity in bins. Every part has local ids of its own, counted on from the
part before it; -1 stands for no action.

A *value* is what a part's number is in the space (a choice counts from the space's ``start``); a *local id* is what
the stream holds. Nothing is clipped: what the space does not hold is refused with a sentence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import accumulate
from math import inf, isfinite, prod
from numbers import Integral, Real
from typing import Any, Literal, TypeVar

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor

Kind = Literal["choice", "binary", "binned"]
Binning = Literal["uniform", "quantile"]
BINS = 11  # odd, so that 0 of a symmetric range is a level
EXACT = 2**24  # whole numbers up to here are exact in float32
ALONE = "action"  # the name of the only part of a space that names none
IDLE = ("noop", "none", "nothing", "idle", "stay", "wait", "done")  # names of a choice that does least
LISTED = 20  # more choices than these are told by their ends
SPEAKABLE = "Discrete, MultiDiscrete, MultiBinary, Box, or a Dict or Tuple of these"

Setting = TypeVar("Setting")


@dataclass(frozen=True, kw_only=True)
class ActionPart:
    """One number of an action, and one id a step.

    A ``choice`` is one of ``count`` whole numbers from ``start`` on, which may have ``names``. ``binary`` is 0 or 1.
    A ``binned`` part is a quantity within [low, high], written as the nearest of its ``levels``, which ascend; it has
    none until they are fitted where the space has no bounds. ``whole`` says that it takes whole numbers only.
    """

    name: str
    kind: Kind
    start: int = 0
    count: int = 2
    names: tuple[str, ...] = ()
    low: float = -inf
    high: float = inf
    whole: bool = False
    levels: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"action names must differ from one another, got {', '.join(self.names)}")
        if self.names and (self.kind != "choice" or len(self.names) != self.count):
            choices = f"{self.count} choices" if self.kind == "choice" else "none to name"
            raise ValueError(f"action part {self.name!r} was given {len(self.names)} names and has {choices}")

    @property
    def fitted(self) -> bool:
        """Whether its values can be written as ids."""
        return self.kind != "binned" or bool(self.levels)

    @property
    def size(self) -> int:
        """Number of ids. Raises ValueError for a quantity without bounds whose bins were not fitted."""
        if not self.fitted:
            raise ValueError(f"action part {self.name!r} has no bounds: fit bins to recorded values first, with fit()")
        return len(self.levels) if self.kind == "binned" else self.count

    @property
    def idle(self) -> float:
        """The value that does least: the choice named so, else the first; 0 of a switch; the level nearest to 0."""
        if self.kind == "binned":
            return min(self.levels, key=abs) if self.levels else min(max(0.0, self.low), self.high)
        return next((self.start + i for i, name in enumerate(self.names) if name.lower() in IDLE), self.start)

    @property
    def listed(self) -> str:
        """What is right, for a sentence."""
        match self.kind:
            case "choice" if self.names and self.count <= LISTED:
                return ", ".join(f"{self.start + i} {name}" for i, name in enumerate(self.names))
            case "choice":
                return f"{self.start} to {self.start + self.count - 1}"
            case "binary":
                return "0 or 1"
            case "binned":
                ends = self._ends()
                return f"a {'whole ' if self.whole else ''}number from {ends[0]:g} to {ends[1]:g}"

    def label(self, value: float) -> str:
        """A value in words: the name of a choice, else the number."""
        if self.names:
            return self.names[int(value) - self.start]
        return f"{value:g}" if self.kind == "binned" else str(int(value))

    def number(self, given: Any) -> float:
        """One value meant by its name or its number. Raises ValueError, saying what is right, for any other."""
        if isinstance(given, str):
            if given in self.names:
                return self.start + self.names.index(given)
            raise ValueError(f"unknown action {given!r}; choose from {self.listed}")
        fits = {"choice": Integral, "binary": Integral, "binned": Real}[self.kind]
        if not isinstance(given, fits) or (isinstance(given, bool) and self.kind != "binary"):
            choice = "a name or a whole number" if self.names else "a whole number"
            wanted = {"choice": choice, "binary": "0 or 1", "binned": "a number"}[self.kind]
            raise ValueError(f"an action is {wanted}, got {given!r}; choose from {self.listed}")
        try:
            return float(self.checked(np.array([given], dtype=np.float64))[0])
        except OverflowError:
            raise ValueError(f"an action of {len(str(given))} digits is outside; choose from {self.listed}") from None

    def checked(self, values: np.ndarray) -> np.ndarray:
        """float64 (...) as it was given. Raises ValueError for the first number that the part cannot be."""
        low, high = self._ends()
        slack = 1e-6 * max([1.0, *(abs(end) for end in (low, high) if isfinite(end))]) if self.kind == "binned" else 0.0
        wrong = ~((values >= low - slack) & (values <= high + slack) & np.isfinite(values))
        if self.kind != "binned" or self.whole:
            wrong |= values != np.floor(values)
        if wrong.any():
            first = values[wrong].flat[0]
            outside = f"outside [{low:g}, {high:g}]" if first < low or first > high else "no such number"
            hint = "; fit bins to data that reach so far" if self.low < first < self.high else ""
            raise ValueError(f"action {first:g} is {outside}; choose from {self.listed}{hint}")
        return np.clip(values, low, high)  # takes back a float32's last digit, no more

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Checked values (...) to ids counted from 0, int64 (...)."""
        if self.kind != "binned":
            return values.astype(np.int64) - self._first
        levels = np.asarray(self.levels[: self.size])
        return np.searchsorted((levels[1:] + levels[:-1]) / 2, values)

    def decode(self, ids: np.ndarray) -> np.ndarray:
        """Ids counted from 0 to values, float64 (...)."""
        return np.asarray(self.levels)[ids] if self.kind == "binned" else ids.astype(np.float64) + self._first

    @property
    def _first(self) -> int:
        return self.start if self.kind == "choice" else 0

    def _ends(self) -> tuple[float, float]:
        if self.kind == "binned":
            return (self.levels[0], self.levels[-1]) if self.levels else (self.low, self.high)
        return self._first, self._first + self.count - 1


class ActionSpace:
    """The actions of a world: ``space`` as people know it, ``parts`` as the stream holds it.

    ``ActionSpace.named("none", "left", "right")`` is the plain case. No space at all is a world nobody steers: it has
    no parts, is false, and takes None. Two spaces are equal when their ids mean the same.

    Args:
        space: Discrete, MultiDiscrete, MultiBinary, Box, or a Dict or Tuple of these, also nested.
        choices: names of choices: a tuple where there is one part, else ``{part name: names}``.
        names: names of the parts in place of the space's own (``arm.x`` for ``Dict(arm=Dict(x=...))``, ``0.1`` for the
            second number of a Tuple's first space).
        bins: how many levels the parts of a Box have, or ``{part name: levels}``. They are spread evenly and both ends
            are among them; whole numbers no more than these have one each. Without bounds see :meth:`fit`.

    Raises ValueError for spaces that cannot be written as a fixed number of ids, and for names that do not fit.
    """

    def __init__(
        self,
        space: gymnasium.Space[Any] | None = None,
        *,
        choices: Sequence[str] | Mapping[str, Sequence[str]] = (),
        names: Sequence[str] = (),
        bins: int | Mapping[str, int] = BINS,
    ) -> None:
        self.space = space
        parts = () if space is None else tuple(_parts(space, ""))
        if names and len(names) != len(parts):
            raise ValueError(f"this action space has {len(parts)} parts, got names for {len(names)}")
        called = list(names) or [part.name for part in parts]
        if len(set(called)) != len(called):
            raise ValueError(f"the parts of an action must have different names, got {', '.join(called)}: give names=")
        self.parts: tuple[ActionPart, ...] = tuple(replace(p, name=name) for p, name in zip(parts, called))
        if not isinstance(choices, Mapping):
            if choices and len(parts) != 1:
                raise ValueError(f"this action space has {len(parts)} parts: give choices={{part name: names}}")
            choices = {called[0]: choices} if choices else {}
        named, num_bins = self._setting(choices, ()), self._setting(bins, BINS)
        self.parts = tuple(replace(p, names=tuple(named(p)), levels=_spread(p, num_bins(p))) for p in self.parts)
        far = [p.name for p in self.parts if p.kind == "choice" and abs(p.start) + p.count > EXACT]
        if far and not self.discrete:
            raise ValueError(f"action part {far[0]!r} has numbers beyond {EXACT}, which float32 cannot tell apart")

    @classmethod
    def named(cls, *names: str) -> ActionSpace:
        """Choices by name, numbered from 0. No name: a world nobody steers."""
        return cls(spaces.Discrete(len(names)), choices=names) if names else cls()

    @classmethod
    def of(cls, given: ActionSpace | Sequence[str] | gymnasium.Space[Any] | None) -> ActionSpace:
        """An action space, a Gymnasium space, or the names of choices, as an action space."""
        if isinstance(given, ActionSpace):
            return given
        if given is None or isinstance(given, gymnasium.Space):
            return cls(given)
        return cls.named(*given)

    # -- what it consists of ------------------------------------------------------------------------

    def __bool__(self) -> bool:
        return bool(self.parts)

    @property
    def num_parts(self) -> int:
        """A, the ids an action takes in the stream."""
        return len(self.parts)

    @property
    def num_ids(self) -> int:
        """How many local ids all parts have together. Raises ValueError where bins must be fitted first."""
        return sum(part.size for part in self.parts)

    @property
    def offsets(self) -> tuple[int, ...]:
        """Where each part's local ids begin. Raises ValueError where bins must be fitted first."""
        return tuple(accumulate((part.size for part in self.parts), initial=0))[:-1]

    @property
    def discrete(self) -> bool:
        """Whether every value is a whole number: choices and switches only."""
        return all(part.kind != "binned" for part in self.parts)

    @property
    def fitted(self) -> bool:
        """Whether actions can be written as ids."""
        return all(part.fitted for part in self.parts)

    @property
    def dtype(self) -> type[np.int64] | type[np.float32]:
        """How values are kept: int64 where all are whole, else float32."""
        return np.int64 if self.discrete else np.float32

    def part(self, name: str) -> ActionPart:
        for candidate in self.parts:
            if candidate.name == name:
                return candidate
        raise ValueError(f"no action part {name!r}; there are {', '.join(p.name for p in self.parts) or 'none'}")

    def idle(self) -> Any:
        """The action that does least, in the form of ``space``; None in a world nobody steers."""
        return self.unflatten([part.idle for part in self.parts])

    # -- actions, values, ids -----------------------------------------------------------------------

    def batch(self, action: Any, rows: int) -> Tensor:
        """Local ids, int64 ``(rows, A)``, of one action for all rows or one for each.

        Takes names, numbers, arrays and tensors, actions of ``space``, what ``batch_space(space, rows)`` holds, values
        ``(A,)`` or ``(rows, A)``, and lists with one action a row. In a Dict or Tuple each member may be for all rows
        or for each; a tuple is an action, a list is one for each row. None is right only where nobody steers.

        Raises ValueError, saying what is right, for anything else.
        """
        ids = self.values_to_ids(self._values(action, rows))
        return ids.expand(rows, -1) if len(ids) != rows else ids

    def flatten(self, action: Any) -> np.ndarray:
        """One action's values ``(A,)``, of ``dtype``. Raises ValueError as ``batch`` does."""
        return self._values(action, None)[0].astype(self.dtype)

    def unflatten(self, values: Any) -> Any:
        """Values ``(A,)`` as an action of ``space``, None in a world nobody steers. Raises ValueError as above."""
        numbers = self._numbers(values)
        if numbers.ndim != 1:
            raise ValueError(f"one action has values of shape ({self.num_parts},), got {numbers.shape}")
        return None if self.space is None else _unflatten(self.space, iter(numbers))

    def values_to_ids(self, values: Any) -> Tensor:
        """Values ``(..., A)``, array or tensor, to local ids, int64 ``(..., A)``.

        Raises ValueError for NaN, for values that the space does not hold, and where bins must be fitted first.
        """
        numbers = self._numbers(values)
        ids = np.zeros(numbers.shape, dtype=np.int64)
        for i, (part, offset) in enumerate(zip(self.parts, self.offsets)):
            ids[..., i] = part.encode(numbers[..., i]) + offset
        return torch.from_numpy(ids)

    def ids_to_values(self, ids: Any) -> Tensor:
        """Local ids ``(..., A)`` to values ``(..., A)``, int64 or float32; off by at most half a bin from what they
        were. Raises ValueError for an id of another part, -1 included."""
        given = _numeric(ids)
        if given.dtype.kind not in "iu" or given.ndim < 1 or given.shape[-1] != self.num_parts:
            raise ValueError(
                f"action ids are whole numbers of shape (..., {self.num_parts}), got {given.dtype} {given.shape}"
            )
        values = np.zeros(given.shape, dtype=self.dtype)
        for i, (part, offset) in enumerate(zip(self.parts, self.offsets)):
            own = given[..., i].astype(np.int64) - offset
            if own.size and not (own.min() >= 0 and own.max() < part.size):
                wrong = given[..., i][(own < 0) | (own >= part.size)].flat[0]
                raise ValueError(f"id {wrong} is outside the ids of {part.name!r}, [{offset}, {offset + part.size})")
            values[..., i] = part.decode(own)
        return torch.from_numpy(values)

    def sample(self, *shape: int, generator: torch.Generator | None = None) -> Tensor:
        """Random values ``(*shape, A)``: every id of a part is as likely as any other."""
        drawn = [torch.randint(p.size, shape, generator=generator) + at for p, at in zip(self.parts, self.offsets)]
        return self.ids_to_values(torch.stack(drawn, -1) if drawn else torch.zeros((*shape, 0), dtype=torch.long))

    # -- bins ---------------------------------------------------------------------------------------

    def fit(
        self,
        values: Any,
        bins: int | Mapping[str, int] = BINS,
        by: Binning | Mapping[str, Binning] = "uniform",
    ) -> ActionSpace:
        """The same space with bins fitted to recorded values ``(..., A)``.

        ``uniform`` spreads levels evenly over the space's bounds, or from the smallest to the largest value where it
        has none; ``quantile`` sets them so that as many values lie near each, and equal ones become one. Finite bounds
        are always levels, so nothing that the space holds is out of reach. ``bins`` and ``by`` are for all parts, or
        ``{part name: ...}``, where parts left out take the defaults.

        Raises ValueError for values that the space does not hold, for none, and for settings that are unknown.
        """
        loose = [replace(p, levels=()) for p in self.parts]
        numbers = self._numbers(values, loose).reshape(-1, self.num_parts)
        if not len(numbers):
            raise ValueError("bins are fitted to recorded values: give at least one")
        of, way = self._setting(bins, BINS), self._setting(by, "uniform")
        fitted = []
        for part, column in zip(loose, numbers.T):
            if part.kind == "binned":
                low = part.low if isfinite(part.low) else column.min()
                high = part.high if isfinite(part.high) else column.max()
                match way(part):
                    case "uniform":
                        levels = _evenly(part, low, high, of(part))
                    case "quantile":
                        shares = np.quantile(column, np.linspace(0, 1, _enough(part, of(part))))
                        levels = _levels(part, [low, *shares[1:-1], high])
                    case other:
                        raise ValueError(f"bins are set by 'uniform' or 'quantile', got {other!r}")
                part = replace(part, levels=levels)
            fitted.append(part)
        return self._with(fitted)

    # -- on disk ------------------------------------------------------------------------------------

    def to_json(self) -> list[str] | dict[str, Any]:
        """Choices by name are their list of names, no actions an empty one; any other space is a dict."""
        if self.space is None:
            return []
        if self == ActionSpace.named(*self.parts[0].names):
            return list(self.parts[0].names)
        parts = [
            {"name": p.name}
            | ({"names": list(p.names)} if p.names else {})
            | ({"levels": list(p.levels)} if p.kind == "binned" else {})
            for p in self.parts
        ]
        return {"space": _space_to_json(self.space), "parts": parts}

    @classmethod
    def from_json(cls, data: Sequence[str] | Mapping[str, Any]) -> ActionSpace:
        """Raises ValueError for JSON that is no action space."""
        if not isinstance(data, Mapping):
            return cls.named(*data)
        try:
            made = cls(_space_from_json(data["space"]), names=[part["name"] for part in data["parts"]])
            stored = [(tuple(part.get("names", ())), tuple(part.get("levels", ()))) for part in data["parts"]]
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this JSON describes no action space ({error}): write it again") from None
        return made._with([replace(p, names=names, levels=levels) for p, (names, levels) in zip(made.parts, stored)])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ActionSpace) and self.parts == other.parts and self.space == other.space

    def __hash__(self) -> int:
        return hash(self.parts)

    def __repr__(self) -> str:
        inside = "; ".join(f"{p.name}: {p.listed}" for p in self.parts)
        return f"ActionSpace({inside or 'nobody steers'})"

    # -- reading what people give -------------------------------------------------------------------

    def _with(self, parts: Iterable[ActionPart]) -> ActionSpace:
        made = ActionSpace(self.space, names=[p.name for p in self.parts])
        made.parts = tuple(parts)
        return made

    def _setting(self, given: Setting | Mapping[str, Setting], default: Setting) -> Callable[[ActionPart], Setting]:
        """One setting for all parts, or one by part name."""
        if not isinstance(given, Mapping):
            return lambda part: given
        for name in given:
            self.part(name)
        return lambda part: given.get(part.name, default)

    def _values(self, action: Any, rows: int | None) -> np.ndarray:
        """float64 (1 or rows, A)."""
        if self.space is None:
            if action is not None and np.shape(action) not in ((0,), (rows, 0)):
                raise ValueError(f"this world takes no actions, got {action!r}: give None")
            return np.zeros((1, 0))
        return _read(self.space, action, rows, self.parts, "")

    def _numbers(self, values: Any, parts: Sequence[ActionPart] | None = None) -> np.ndarray:
        """Checked values (..., A), float64."""
        given = _numeric(values)
        if given.ndim < 1 or given.shape[-1] != self.num_parts or given.dtype.kind not in "biuf":
            raise ValueError(
                f"the values of actions are numbers of shape (..., {self.num_parts}), got {given.dtype} {given.shape}"
            )
        return _check_columns(given, self.parts if parts is None else parts)


# -- spaces and their parts ---------------------------------------------------------------------------


def _members(space: gymnasium.Space[Any]) -> dict[Any, gymnasium.Space[Any]] | None:
    """The spaces within a Dict or Tuple, by key; None of any other space."""
    if isinstance(space, spaces.Dict):
        return dict(space.spaces)
    if isinstance(space, spaces.Tuple):
        return dict(enumerate(space.spaces))
    return None


def _below(path: str, key: Any) -> str:
    return f"{path}.{key}" if path else str(key)


def _parts(space: gymnasium.Space[Any], path: str) -> Iterable[ActionPart]:
    members = _members(space)
    if members is not None:
        if not members:
            raise ValueError(f"an action space without members takes no actions: leave out {path or 'the space'!r}")
        for key, member in members.items():
            yield from _parts(member, _below(path, key))
        return
    shape = space.shape
    if not isinstance(space, spaces.Discrete | spaces.MultiDiscrete | spaces.MultiBinary | spaces.Box) or shape is None:
        here = f" (at {path!r})" if path else ""
        raise ValueError(f"a {type(space).__name__} space{here} has no fixed number of ids an action: use {SPEAKABLE}")
    if prod(shape) == 0:
        raise ValueError(f"an action space of shape {shape} takes no actions: leave out {path or 'the space'!r}")
    for index in np.ndindex(shape):
        name = _below(path, ".".join(map(str, index))) if prod(shape) > 1 else path or ALONE
        match space:
            case spaces.Discrete():
                yield ActionPart(name=name, kind="choice", start=int(space.start), count=int(space.n))
            case spaces.MultiDiscrete():
                first, count = int(space.start[index]), int(space.nvec[index])
                yield ActionPart(name=name, kind="choice", start=first, count=count)
            case spaces.MultiBinary():
                yield ActionPart(name=name, kind="binary")
            case spaces.Box():
                low, high, whole = float(space.low[index]), float(space.high[index]), space.dtype.kind in "iu"
                yield ActionPart(name=name, kind="binned", low=low, high=high, whole=whole)


def _enough(part: ActionPart, bins: int) -> int:
    if not isinstance(bins, Integral) or bins < 2:
        raise ValueError(f"action part {part.name!r} needs at least 2 bins, got {bins!r}")
    return int(bins)


def _spread(part: ActionPart, bins: int) -> tuple[float, ...]:
    """The levels that a part has before any data were seen."""
    return _evenly(part, part.low, part.high, bins) if part.kind == "binned" else ()


def _evenly(part: ActionPart, low: float, high: float, bins: int) -> tuple[float, ...]:
    """Levels from end to end; none where an end is missing."""
    bins = _enough(part, bins)
    if not (isfinite(low) and isfinite(high)):
        return ()
    if part.whole and high - low < bins:
        bins = int(high - low) + 1
    levels = np.linspace(low, high, bins)
    if bins % 2 and low == -high:
        levels[bins // 2] = 0.0
    return _levels(part, levels)


def _levels(part: ActionPart, levels: Any) -> tuple[float, ...]:
    """Ascending, and still apart from one another as float32."""
    levels = np.asarray(levels, dtype=np.float64)
    return tuple(float(level) for level in np.unique((np.round(levels) if part.whole else levels).astype(np.float32)))


# -- reading ------------------------------------------------------------------------------------------


def _numeric(values: Any) -> np.ndarray:
    if isinstance(values, Tensor):
        values = values.detach().cpu()
        return (values.double() if values.is_floating_point() else values).numpy()
    return np.asarray(values)


def _plain(given: Any) -> Any:
    """Numbers, strings and lists of them, whatever they came in."""
    if isinstance(given, Tensor | np.ndarray | np.generic):
        return given.tolist()
    return [_plain(part) for part in given] if isinstance(given, list | tuple) else given


def _check_columns(given: np.ndarray, parts: Sequence[ActionPart]) -> np.ndarray:
    """Numbers (..., A) as float64, each part's held against it. Raises ValueError, naming the part among several."""
    numbers = given.astype(np.float64)
    for i, part in enumerate(parts):
        with _naming(part, parts):
            numbers[..., i] = part.checked(numbers[..., i])
    return numbers


@contextmanager
def _naming(part: ActionPart, parts: Sequence[ActionPart]) -> Iterator[None]:
    """Puts the part's name before a sentence about it, where there are several."""
    try:
        yield
    except ValueError as mistake:
        several = len(parts) > 1 or part.name != ALONE
        raise ValueError(f"{part.name}: {mistake}" if several else str(mistake)) from None


def _read(
    space: gymnasium.Space[Any], action: Any, rows: int | None, parts: Sequence[ActionPart], path: str
) -> np.ndarray:
    """Values of one action (1, A) or of one for each row (rows, A), float64. ``rows`` None: it must be one."""
    members = _members(space)
    if members is None:
        return _read_leaf(space.shape or (), action, rows, parts)
    if isinstance(action, Tensor | np.ndarray):
        return _check_columns(_flat(_numeric(action), rows, parts), parts)
    here = f"the action's {path!r}" if path else "an action"
    if rows is not None and isinstance(action, list):
        if len(action) != rows:
            raise ValueError(f"{len(action)} actions for {rows} worlds: give one for all, or one for each")
        return np.concatenate([_read(space, one, None, parts, path) for one in action])
    if isinstance(space, spaces.Dict):
        keys = ", ".join(map(str, members))
        if not isinstance(action, Mapping):
            raise ValueError(f"{here} is a dict with {keys}, got {action!r}")
        if set(action) != set(members):
            raise ValueError(f"{here} is a dict with {keys}, got one with {', '.join(map(str, action)) or 'nothing'}")
    elif not isinstance(action, tuple | list) or len(action) != len(members):
        raise ValueError(f"{here} is a tuple of {len(members)}, got {action!r}")
    read, at = [], 0
    for key, member in members.items():
        name = _below(path, key)
        count = sum(1 for _ in _parts(member, name))
        read.append(_read(member, action[key], rows, parts[at : at + count], name))
        at += count
    most = max(len(values) for values in read)
    return np.concatenate([values.repeat(most // len(values), 0) for values in read], 1)


def _flat(given: np.ndarray, rows: int | None, parts: Sequence[ActionPart]) -> np.ndarray:
    if given.dtype.kind not in "biuf" or given.shape not in ((len(parts),), (rows, len(parts))):
        raise ValueError(
            f"the values of an action are ({len(parts)},) numbers, or ({rows}, {len(parts)}) for one each, "
            f"got {given.dtype} {given.shape}"
        )
    return given.reshape(-1, len(parts))


def _read_leaf(shape: tuple[int, ...], action: Any, rows: int | None, parts: Sequence[ActionPart]) -> np.ndarray:
    given = _numeric(action) if isinstance(action, Tensor | np.ndarray | np.generic) else None
    if given is None or given.dtype.kind not in "biuf":
        given = np.array(_plain(action), dtype=object)
    size, each = len(parts), (rows, *shape)
    values_of_each = rows is not None and given.shape == (rows, size)
    if given.shape not in (shape, each) and not values_of_each and not (shape and given.shape == (size,)):
        what = parts[0].listed if size == 1 else "; ".join(f"{p.name}: {p.listed}" for p in parts[:LISTED])
        if given.ndim == 1 and not shape and rows is not None:
            raise ValueError(f"{len(given)} actions for {rows} worlds: give one for all, or one for each")
        raise ValueError(f"an action has shape {shape}, or {each} for one each, got {given.shape}; choose from {what}")
    columns = given.reshape(-1, size)
    values = np.empty(columns.shape, dtype=np.float64)
    for i, part in enumerate(parts):
        kinds = {"choice": "iu", "binary": "biu", "binned": "iuf"}[part.kind]
        with _naming(part, parts):
            if columns.dtype.kind in kinds:
                values[:, i] = part.checked(columns[:, i].astype(np.float64))
            else:
                values[:, i] = [part.number(one) for one in columns[:, i].tolist()]
    return values


def _unflatten(space: gymnasium.Space[Any], numbers: Any) -> Any:
    """The space's action from an iterator over values, of which it takes as many as it needs."""
    members = _members(space)
    if members is not None:
        made = {key: _unflatten(member, numbers) for key, member in members.items()}
        return made if isinstance(space, spaces.Dict) else tuple(made.values())
    if isinstance(space, spaces.Discrete):
        return np.int64(next(numbers))
    shape = space.shape or ()
    values = np.array([next(numbers) for _ in range(prod(shape))], dtype=np.float64).reshape(shape)
    if isinstance(space, spaces.Box):
        values = np.clip(values, space.low, space.high)
    return np.asarray(values, dtype=space.dtype)


# -- spaces as JSON -----------------------------------------------------------------------------------


def _space_to_json(space: gymnasium.Space[Any]) -> dict[str, Any]:
    def ends(values: np.ndarray) -> Any:  # JSON knows no infinity
        plain = [None if not isfinite(value) else value for value in values.ravel().tolist()]
        return plain[0] if len(set(plain)) == 1 else plain

    match space:
        case spaces.Dict():
            members = [[key, _space_to_json(member)] for key, member in space.spaces.items()]
            return {"kind": "dict", "spaces": members}
        case spaces.Tuple():
            return {"kind": "tuple", "spaces": [_space_to_json(member) for member in space.spaces]}
        case spaces.Discrete():
            return {"kind": "discrete", "n": int(space.n), "start": int(space.start)}
        case spaces.MultiDiscrete():
            start = space.start.tolist()
            return {"kind": "multi_discrete", "nvec": space.nvec.tolist(), "start": start, "dtype": str(space.dtype)}
        case spaces.MultiBinary():
            return {"kind": "multi_binary", "n": space.n if isinstance(space.n, int) else list(space.shape)}
        case spaces.Box():
            about = {"shape": list(space.shape), "dtype": str(space.dtype)}
            return {"kind": "box", "low": ends(space.low), "high": ends(space.high), **about}
    raise AssertionError(f"{space} was refused before")


def _space_from_json(data: Mapping[str, Any]) -> gymnasium.Space[Any]:
    match data["kind"]:
        case "dict":
            # An ordered list of pairs keeps the order that Gymnasium would sort away.
            return spaces.Dict([(key, _space_from_json(member)) for key, member in data["spaces"]])
        case "tuple":
            return spaces.Tuple([_space_from_json(member) for member in data["spaces"]])
        case "discrete":
            return spaces.Discrete(data["n"], start=data["start"])
        case "multi_discrete":
            return spaces.MultiDiscrete(np.array(data["nvec"]), dtype=np.dtype(data["dtype"]).type, start=data["start"])
        case "multi_binary":
            return spaces.MultiBinary(data["n"])
        case "box":
            shape, dtype = tuple(data["shape"]), np.dtype(data["dtype"]).type

            def ends(given: Any, missing: float) -> np.ndarray:
                plain = given if isinstance(given, list) else [given] * prod(shape)
                return np.array([missing if end is None else end for end in plain], dtype=dtype).reshape(shape)

            return spaces.Box(ends(data["low"], -inf), ends(data["high"], inf), shape, dtype)
        case unknown:
            raise ValueError(f"no space of kind {unknown!r} is known: {SPEAKABLE} are")
