"""What an evaluation says of a world in words, faults first. What an empty or a still picture reaches is no merit."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from train.measure.foreground import MARKS

GAIN = 0.5  # dB above what an empty or a still picture gets
DELTA = 0.5  # dB that true actions must be worth
OBEYED = 1.5  # sensitivity from which an action is said to do something
FAINT = 6  # dB above the median picture from which half of the contrast is there
COUNTABLE = 5  # things in a picture; more are fragments
MISCOUNTED = 0.25  # share of the things that may be missing or too many
SEEN = 8  # the step at which a rollout is judged, or the last one before

Part = dict[str, Any]


def verdict(numbers: Mapping[str, Any]) -> list[str]:
    """Sentences: first whether the world is any good, then each fault, then what holds. What was not measured, or had
    nothing to be counted, is not spoken of."""
    tokenizer, rollout = numbers.get("tokenizer", {}), numbers.get("rollout", {})
    faults: list[str] = []
    merits: list[str] = []
    for judge, part in (
        (_tokenizer, tokenizer),
        (_foresight, rollout),
        (_obedience, rollout),
        (_content, rollout),
        (_motion, rollout),
    ):
        found = judge(part)
        faults += found[0]
        merits += found[1]
    if not faults and not merits:
        return ["Nothing moves in these episodes, so nothing can be said of this world: measure it on others."]
    if not faults:
        return ["No fault was found in this world.", *merits]
    count = "One fault was" if len(faults) == 1 else f"{len(faults)} faults were"
    return [f"{count} found in this world.", *faults, *merits]


def _said(value: float) -> str:
    return f"{value:.1f} dB"


def _tokenizer(part: Part) -> tuple[list[str], list[str]]:
    ours, empty = part.get("foreground_psnr_db"), part.get("foreground_psnr_db_median")
    if ours is None or empty is None:
        return [], []
    if ours < empty + GAIN:
        whole = f" Its {_said(part['psnr_db'])} over whole pictures are the background's." if "psnr_db" in part else ""
        return [
            f"The tokenizer loses what the pictures show: over foreground pixels it gets {_said(ours)}, and the median "
            f"picture, with nothing in it, {_said(empty)}.{whole}"
        ], []
    there = f"over foreground pixels it gets {_said(ours)}, the median picture {_said(empty)}"
    if ours < empty + FAINT:
        return [f"The tokenizer shows things faintly: {there}."], []
    return [], [f"The tokenizer keeps the foreground: {there}."]


def _foresight(part: Part) -> tuple[list[str], list[str]]:
    makers = {"": "", "_median": "an empty picture", "_copy_last": "the first frame held"}
    known: dict[int, dict[str, float]] = {}
    for mark in MARKS:
        values = {name: part.get(f"foreground_psnr_db_{mark}{maker}") for maker, name in makers.items()}
        if all(value is not None for value in values.values()):
            known[mark] = cast(dict[str, float], values)
    if not known:
        return [], []
    unbeaten = {
        mark: [name for name, value in values.items() if name and values[""] < value + GAIN]
        for mark, values in known.items()
    }
    mark = max([m for m in known if m <= SEEN] or [min(known)])
    ours, empty, still = known[mark].values()
    told = (
        f"after {_steps(mark)} it gets {_said(ours)} over foreground pixels, the median picture {_said(empty)}, the "
        f"first frame held {_said(still)}"
    )
    if unbeaten[mark]:
        return [f"The world is no better than {' or '.join(unbeaten[mark])}: {told}."], []
    lost = [m for m in known if m > mark and unbeaten[m]]
    until = f" After {_steps(lost[0])} it is no better than {' or '.join(unbeaten[lost[0]])}." if lost else ""
    return [], [f"The world foresees what happens: {told}.{until}"]


def _steps(count: int) -> str:
    return "one step" if count == 1 else f"{count} steps"


def _obedience(part: Part) -> tuple[list[str], list[str]]:
    delta, by_action = part.get("delta_foreground_psnr_8_db"), part.get("action_sensitivity") or {}
    acts = [name for name, value in by_action.items() if value >= OBEYED]
    dead = [name for name in by_action if name not in acts]
    worth = "" if delta is None else f": after 8 steps true actions are worth {_said(delta)} more than random ones"
    if by_action and not acts:
        return [f"It obeys nothing{worth}, and no action that is held changes the picture more than chance does."], []
    if delta is not None and delta < DELTA:
        but = f" Pictures do change with {_listed(acts)}, but not as the real ones do." if acts else ""
        return [f"It does not follow its actions{worth}.{but}"], []
    if not worth and not acts:
        return [], []
    rest = f" Little changes with {_listed(dead)}." if dead else ""
    return [], [f"It obeys {_listed(acts) if dead else 'its actions'}{worth}.{rest}"]


def _listed(names: list[str], most: int = 8) -> str:
    shown = [f"“{name}”" for name in names]
    shown = shown if len(shown) <= most else [*shown[: most - 1], f"{len(names) - most + 1} more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} and {shown[-1]}"


def _content(part: Part) -> tuple[list[str], list[str]]:
    amount, things, real, right = (
        part.get(name) for name in ("foreground_amount", "things", "things_real", "things_right")
    )
    merits = []
    if things is not None and real is not None and right is not None and 0 < real <= COUNTABLE:
        counted = f"{things:.1f} where the real pictures show {real:.1f}"
        if things < (1 - MISCOUNTED) * real:
            return [f"Things are missing: it draws {counted}."], []
        if things > (1 + MISCOUNTED) * real:
            return [f"It draws more things than there are, {counted}: something is doubled or left behind."], []
        if right < 0.5:
            return [f"It draws the right number of things in {100 * right:.0f} % of the pictures alone."], []
        merits = [f"It draws the right number of things in {100 * right:.0f} % of the pictures."]
    if amount is not None and amount < 0.5:
        return [f"Things fade: its pictures hold {100 * amount:.0f} % of the foreground that is there."], []
    if amount is not None and amount > 2:
        return [f"Things smear: its pictures hold {amount:.1f} times the foreground that is there."], []
    return [], merits


def _motion(part: Part) -> tuple[list[str], list[str]]:
    freezes, loops = part.get("freezes"), part.get("loops")
    faults = []
    if freezes is not None and freezes > 0.5:
        faults.append(
            f"It freezes: nothing changes in {100 * freezes:.0f} % of the steps in which the real pictures do."
        )
    if loops is not None and loops > 0.25:
        faults.append(f"It goes round in circles: {100 * loops:.0f} % of its rollouts repeat earlier frames in turn.")
    return faults, []
