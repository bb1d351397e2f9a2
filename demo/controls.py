"""What a player has in hand: a key, a switch, a slider or a stick for each part of an action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tokenizer.action_space import ActionPart, ActionSpace

AXES = (("x", "y"), ("0", "1"))  # names of two numbers that one stick moves
MANY = 24  # more choices than these have a slider in place of keys


class Controls:
    """Keys held and values set, and the action they make.

    A choice part does its idle choice while no key is held. Choices go by their names, as in ``north``; where an
    action has several parts, by ``part=choice``. Everything else keeps the value it was given last: switches,
    quantities, and choices so many that a slider is better.

    ``keys`` are a world page's: {choice or part: {keys, sign, place, idle}}.
    """

    def __init__(self, actions: ActionSpace, keys: Mapping[str, Any] | None = None) -> None:
        self.actions, self.keys = actions, dict(keys or {})
        self._choices: dict[str, tuple[str, float]] = {}  # what is held -> part and value
        for part in actions.parts:
            if _has_keys(part):
                for value in range(part.start, part.start + part.count):
                    self._choices[self._held_as(part, value)] = part.name, value
        self._held: tuple[str, ...] = ()
        self._values = {part.name: part.idle for part in actions.parts if not _has_keys(part)}
        self._at_rest = dict(self._values)

    def hold(self, held: Sequence[str], values: Mapping[str, float] | None = None) -> None:
        """Says which choices' keys are down, and sets switches and quantities. May be called during a step.

        Raises ValueError, and changes nothing, for names and values that there are not.
        """
        for name in held:
            if not isinstance(name, str) or name not in self._choices:
                raise ValueError(f"This world has no action {name!r}; it has {', '.join(self._choices) or 'none'}.")
        given = {name: self._checked(name, value) for name, value in (values or {}).items()}
        self._held, self._values = tuple(dict.fromkeys(held)), self._values | given

    @property
    def free(self) -> bool:
        """Whether no key is down, and everything else stands where it did at first."""
        return not self._held and self._values == self._at_rest

    def action(self, time: int) -> Any:
        """The action at a step; several held choices of a part take turns, which makes a diagonal of two."""
        values = []
        for part in self.actions.parts:
            if _has_keys(part):
                wanted = [self._choices[name][1] for name in self._held if self._choices[name][0] == part.name]
                values.append(wanted[time % len(wanted)] if wanted else self._idle(part))
            else:
                values.append(self._values[part.name])
        return self.actions.unflatten(values)

    def describe(self) -> list[dict[str, Any]]:
        """For the page: what there is to hold and to set, as JSON. Two numbers of one vector share a stick.

        Of a part's choices the first is what is done while nothing is held.
        """
        parts, described = list(self.actions.parts), []
        while parts:
            part = parts.pop(0)
            if _has_keys(part):
                values = sorted(range(part.start, part.start + part.count), key=lambda value: value != part.idle)
                described.append({**self._about(part), "choices": [self._about_choice(part, v) for v in values]})
            elif part.kind == "binary":
                described.append(self._about(part))
            elif (other := self._other_axis(part)) in parts:
                parts.remove(other)
                stem = part.name.rpartition(".")[0] or "stick"
                described.append({"kind": "stick", "name": stem, "axes": [self._about(part), self._about(other)]})
            else:
                described.append(self._about(part))
        return described

    def _idle(self, part: ActionPart) -> float:
        names = [name for name in part.names if self._key(self._held_as(part, part.number(name)), name).get("idle")]
        return part.number(names[0]) if names else part.idle

    def _held_as(self, part: ActionPart, value: float) -> str:
        return part.label(value) if len(self.actions.parts) == 1 else f"{part.name}={part.label(value)}"

    def _about(self, part: ActionPart) -> dict[str, Any]:
        idle = self._idle(part) if _has_keys(part) else part.idle
        about: dict[str, Any] = {"kind": part.kind, "name": part.name, "idle": idle}
        if _has_keys(part):
            return about
        if part.kind != "binary":
            numbers = range(part.start, part.start + part.count)
            levels = list(numbers if part.kind == "choice" else part.levels)
            about |= {"kind": "binned", "levels": levels, "labels": list(part.names)}
        return {**self._key(part.name), **about}

    def _about_choice(self, part: ActionPart, value: float) -> dict[str, Any]:
        held, label = self._held_as(part, value), part.label(value)
        return {**self._key(held, label), "held": held, "label": label}

    def _key(self, *names: str) -> dict[str, Any]:
        found = next((self.keys[name] for name in names if isinstance(self.keys.get(name), Mapping)), {})
        return {key: found[key] for key in ("keys", "sign", "place", "idle") if key in found}

    def _other_axis(self, part: ActionPart) -> ActionPart | None:
        """The second number of a vector of two, of whose first this is."""
        stem, _, last = part.name.rpartition(".")
        names = {p.name: p for p in self.actions.parts if p.kind == "binned" and p.name.rpartition(".")[0] == stem}
        for first, second in AXES:
            together = [f"{stem}.{axis}" if stem else axis for axis in (first, second)]
            if last == first and list(names) == together:
                return names[together[1]]
        return None

    def _checked(self, name: str, value: Any) -> float:
        if name not in self._values:
            known = ", ".join(self._values) or "none"
            raise ValueError(f"This world has no slider or switch {name!r}; it has {known}.")
        try:
            return self.actions.part(name).number(value)
        except ValueError as mistake:
            raise ValueError(f"{name}: {mistake}.") from None


def _has_keys(part: ActionPart) -> bool:
    return part.kind == "choice" and part.count <= MANY
