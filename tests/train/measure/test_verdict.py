"""Worlds that are right, or wrong in one way each, are called what they are."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from gymnasium import spaces

from tokenizer.action_space import ActionSpace
from train.measure.bars import Bar
from train.measure.content import count_things, period
from train.measure.foreground import PooledErrors
from train.measure.measurement import plain
from train.measure.rollout import measure_rollout
from train.measure.sensitivity import action_sensitivity, held_actions
from train.measure.tokenizer import measure_tokenizer
from train.measure.verdict import verdict
from worldmodel.sampling import Sampling

from .toy_court import (
    Painter,
    ToyWorld,
    ballless,
    circling,
    deaf,
    doubling,
    empty,
    episodes,
    frozen,
    noisy,
    perfect,
)  # fmt: skip

LOST, NOTHING, STILL = "The tokenizer loses", "no better than an empty picture", "the first frame held: after"
DEAF, ASTRAY, MISSING = "It obeys nothing", "It does not follow its actions", "Things are missing"
DOUBLED, FROZEN, ROUND = "more things than there are", "It freezes", "round in circles"
FAULTS = {LOST, NOTHING, STILL, DEAF, ASTRAY, MISSING, DOUBLED, FROZEN, ROUND}


def measured(paint: Painter, blind: bool = False) -> dict[str, Any]:
    world, some = cast(Any, ToyWorld(paint, blind)), episodes()
    drawn: dict[str, Any] = {"seed": 0, "sampling": Sampling()}
    rollout = measure_rollout(world, some, horizon=32, **drawn).numbers
    sensitivity = {"action_sensitivity": action_sensitivity(world, some, **drawn)}
    return plain({"tokenizer": measure_tokenizer(world, some).numbers, "rollout": rollout | sensitivity})


@pytest.mark.parametrize(
    ("paint", "faults"),
    [
        (perfect, set()),
        (noisy, set()),
        (empty, {NOTHING, STILL, DEAF, MISSING, FROZEN}),
        (ballless, {MISSING}),
        (frozen, {NOTHING, STILL, DEAF, FROZEN}),
        (deaf, {DEAF}),
        (doubling, {DOUBLED}),
        (circling, {NOTHING, STILL, ASTRAY, ROUND}),
    ],
)
def test_a_toy_world_is_called_what_it_is(paint: Painter, faults: set[str]) -> None:
    numbers = measured(paint)
    said = " ".join(verdict(numbers))
    assert {fault for fault in FAULTS if fault in said} == faults


def test_a_tokenizer_that_shows_an_empty_court_is_not_praised_for_its_background() -> None:
    numbers = measured(perfect, blind=True)
    assert numbers["tokenizer"]["psnr_db"] > 20
    said = verdict(numbers)
    assert said[1].startswith(LOST)
    assert "are the background's" in said[1]
    bar = Bar("tokenizer.psnr_db", "≥", 20, above=("foreground_psnr_db", "foreground_psnr_db_median"))
    judged, unbound = bar.verdict(numbers), replace(bar, above=None).verdict(numbers)
    assert judged is not None
    assert unbound is not None
    assert (judged.met, unbound.met) == (False, True)


def test_empty_and_still_pictures_stand_beside_every_figure_of_the_foreground() -> None:
    numbers = measured(frozen)["rollout"]
    for region in ("foreground", "moving"):
        for mark in (1, 8, 16):
            assert numbers[f"{region}_psnr_db_{mark}"] == numbers[f"{region}_psnr_db_{mark}_copy_last"]
            assert 0 < numbers[f"{region}_psnr_db_{mark}_median"] < 100
        assert numbers[f"delta_{region}_psnr_8_db"] == 0
    assert "foreground_psnr_db_32" not in numbers  # no rollout is so long


def test_where_nothing_moves_there_is_no_figure_and_no_praise() -> None:
    still = [replace(e, frames=e.frames[:1].repeat(len(e.frames), 0)) for e in episodes(2, steps=12)]
    world = cast(Any, ToyWorld(frozen))
    rollout = measure_rollout(world, still, horizon=8, seed=0, sampling=Sampling()).numbers
    numbers = plain({"tokenizer": measure_tokenizer(world, still).numbers, "rollout": rollout})
    assert numbers["tokenizer"]["foreground_psnr_db"] is None
    assert numbers["rollout"]["foreground_psnr_db_8"] is None
    assert numbers["rollout"]["freezes"] is None
    assert verdict(numbers)[0].startswith("Nothing moves in these episodes")


def test_short_episodes_are_measured_beside_long_ones() -> None:
    some, world = [*episodes(2, steps=20), *episodes(1, steps=1), *episodes(1, steps=5)], cast(Any, ToyWorld(perfect))
    found = measure_rollout(world, some, horizon=16, seed=0, sampling=Sampling()).numbers
    assert found["prompt_steps"] == 4
    assert found["rows_by_step"].tolist() == [4] + [3] * 2 + [2] * 13
    assert found["foreground_psnr_by_step_db"].tolist() == [100] * 16
    assert set(action_sensitivity(world, some, seed=0, sampling=Sampling())) == {"stay", "up", "down"}


def test_a_world_nobody_steers_is_not_asked_to_obey() -> None:
    numbers = measured(perfect)
    rollout = {k: v for k, v in numbers["rollout"].items() if "delta" not in k and k != "action_sensitivity"}
    assert not any("obey" in sentence or "follow" in sentence for sentence in verdict(numbers | {"rollout": rollout}))


@pytest.mark.parametrize(
    ("part", "figures", "said"),
    [
        ("tokenizer", {"foreground_psnr_db": 15.2, "foreground_psnr_db_median": 11.0}, "shows things faintly"),
        ("tokenizer", {"foreground_psnr_db": 17.2, "foreground_psnr_db_median": 11.0}, "keeps the foreground"),
        ("rollout", {"foreground_amount": 0.3}, "Things fade: its pictures hold 30 % of the foreground"),
        ("rollout", {"foreground_amount": 3.5}, "Things smear: its pictures hold 3.5 times the foreground"),
        ("rollout", {"things": 2.5, "things_real": 2.5, "things_right": 0.3}, "in 30 % of the pictures alone"),
        ("rollout", {"things": 1.0, "things_real": 2.0, "things_right": 0.0}, "Things are missing: it draws 1.0"),
        ("rollout", {"things": 9.0, "things_real": 7.0, "things_right": 0.1, "loops": 0.5}, "repeat earlier frames"),
    ],
)
def test_each_figure_has_its_sentence(part: str, figures: dict[str, float], said: str) -> None:
    assert said in verdict({part: figures})[1]


def test_actions_that_do_nothing_are_named_among_those_that_do() -> None:
    said = verdict({"rollout": {"delta_foreground_psnr_8_db": 2.0, "action_sensitivity": {"fire": 1.1, "left": 9.0}}})
    assert said[1] == (
        "It obeys “left”: after 8 steps true actions are worth 2.0 dB more than random ones. "
        "Little changes with “fire”."
    )


def test_a_quantity_is_held_at_its_ends_and_a_choice_at_each_of_its_values() -> None:
    space = ActionSpace(spaces.Dict(jump=spaces.Discrete(3, start=1), turn=spaces.Box(-1, 1, (1,))))
    held = held_actions(space)
    assert {name: list(named) for name, named in held.items()} == {"jump": ["1", "2", "3"], "turn": ["-1", "1"]}
    assert held["turn"]["1"].tolist() == [1, 1]
    assert held["jump"]["3"].tolist() == [3, 0]


def test_things_are_counted_by_what_touches() -> None:
    mask = torch.zeros(3, 8, 8, dtype=torch.bool)
    mask[1, 0:2, 0:2] = mask[1, 2, 2] = mask[1, 5:, 5:] = True
    mask[2, ::2, ::2] = True
    mask[2, 1, 1] = True  # joins four
    assert count_things(mask).tolist() == [0, 2, 13]
    assert count_things(mask[:0]).tolist() == []


def test_a_period_is_found_where_there_is_one() -> None:
    frames = torch.randint(0, 256, (30, 8, 8, 3), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    assert period(frames) is None
    assert period(frames[:1].repeat(30, 1, 1, 1)) is None
    assert period(frames[torch.arange(30) % 5]) == 5
    assert period(frames[:6]) is None


def test_errors_are_pooled_over_pixels_so_that_empty_pictures_count_for_nothing() -> None:
    pooled, truth = PooledErrors(2), torch.zeros(2, 1, 4, 4, 3, dtype=torch.uint8)
    where = torch.zeros(2, 1, 4, 4, dtype=torch.bool)
    where[0, 0, 0, :2] = True
    made = truth.clone()
    made[0, 0, 0, 0] = 51  # a fifth, in one pixel of two
    pooled.note("", made, truth, {"foreground": where})
    pooled.note("", truth, truth, {"foreground": torch.zeros_like(where)})
    values = pooled.psnr("foreground", "")
    assert values[0].item() == pytest.approx(-10 * math.log10(0.02))
    assert values[1].isnan()
