"""A world that keeps the contract, and the same with one rule broken at a time."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from train.check_world import faults, main
from train.worlds.contract import Recipe


def broken(pond: Any, change: Callable[[Any, Any], Any], recipe: Recipe | None = None) -> list[str]:
    """Faults of a pond whose steps and resets are changed: ``change`` gets the simulator and what it would return, and
    writes into that."""

    class Broken(pond.Pond):  # type: ignore[name-defined]
        def reset(self, **given: Any) -> Any:
            observation, info = super().reset(**given)
            told = SimpleNamespace(observation=observation, info=dict(info), action=None)
            change(self, told)
            return told.observation, told.info

        def step(self, action: Any) -> Any:
            observation, reward, terminated, truncated, info = super().step(action)
            told = SimpleNamespace(
                observation=observation,
                reward=reward,
                terminated=terminated,
                truncated=truncated,
                info=dict(info),
                action=action,
            )
            change(self, told)
            return told.observation, told.reward, told.terminated, told.truncated, told.info

    return faults(replace(recipe or pond.RECIPE, make=Broken))


def of_info(**changes: Callable[[Any], Any]) -> Callable[[Any, Any], None]:
    def change(env: Any, told: Any) -> None:
        for key, value in changes.items():
            told.info[key] = value(told.info[key])

    return change


def only_later(**changes: Any) -> Callable[[Any, Any], None]:
    def change(env: Any, told: Any) -> None:
        if told.action is not None:
            vars(told).update(changes)

    return change


def without(key: str) -> Callable[[Any, Any], None]:
    return lambda env, told: told.info.pop(key)


def last_moved(env: Any, told: Any) -> None:
    told.info["states"] = told.info["states"] + np.float32(0.01)


def beyond(env: Any, told: Any) -> None:
    for name in ("state", "states"):
        told.info[name] = told.info[name].copy()
        told.info[name][..., 1] = 1.5


def another_float(env: Any, told: Any) -> None:
    told.observation = told.observation / 255


CASES: dict[str, tuple[Callable[[Any, Any], Any], str]] = {
    "frames of floats": (of_info(frames=lambda x: x / 255), "frames are uint8 arrays, got float64"),
    "frames of another size": (of_info(frames=lambda x: x[:, :8]), r"have the shape \(1, 16, 16, 3\), got \(1, 8, 16"),
    "too few frames": (of_info(frames=lambda x: x[:1]), r"after a step have the shape \(2, 16, 16, 3\), got \(1"),
    "no frames": (without("frames"), "info has no 'frames', so a step is one picture, but frames_per_step is 2"),
    "no state": (without("state"), "info has no 'state', but the schema has 7 values"),
    "a wide state": (of_info(state=lambda x: np.append(x, 0)), r"info\['state'\] has the shape \(7,\), got \(8,\)"),
    "a state of integers": (of_info(state=lambda x: x.astype(int)), "is float32, got int64"),
    "not a number": (of_info(states=lambda x: np.full_like(x, np.nan)), "not finite, in leaf.colour, leaf.position"),
    "another last state": (last_moved, "is not info\\['state'\\]"),
    "out of range": (beyond, "leaf.position is 1.5, which is not in the schema's 0 to 1"),
    "a caption of bytes": (of_info(caption=lambda x: x.encode()), "a caption is a str, got bytes"),
    "another observation": (another_float, "the observation is not in the observation space"),
    "terminated as a number": (only_later(terminated=0), "terminated is a bool, got int"),
    "truncated as None": (only_later(truncated=None), "truncated is a bool, got NoneType"),
    "a reward that is not finite": (only_later(reward=float("nan")), "a reward is a finite number, got nan"),
}


@pytest.mark.parametrize("name", CASES)
def test_a_simulator_that_breaks_a_rule_is_told_which(pond: Any, name: str) -> None:
    change, sentence = CASES[name]
    found = broken(pond, change)
    assert any(re.search(sentence, fault) for fault in found), found


def test_worlds_that_keep_the_contract_have_no_fault(pond: Any) -> None:
    assert [faults(world) for world in (pond.RECIPE, pond.FILM, pond.TILLER)] == [[], [], []]


def test_a_simulator_that_forgets_its_seed_is_told_so(pond: Any) -> None:
    rng = np.random.default_rng()

    def noisy(env: Any, told: Any) -> None:
        told.info["frames"] = rng.integers(0, 256, told.info["frames"].shape, np.uint8)

    assert any("two episodes with one seed have different frames" in fault for fault in broken(pond, noisy))


def test_entity_maps_must_be_there_and_show_entities(pond: Any) -> None:
    mapped = replace(pond.RECIPE, segmented=(16, 16))

    def shows(label: int) -> Callable[[Any, Any], None]:
        def change(env: Any, told: Any) -> None:
            told.info["segmentation"] = np.full((len(told.info["frames"]), 16, 16), label, np.uint8)

        return change

    assert any("info has no 'segmentation'" in fault for fault in faults(mapped))
    assert broken(pond, shows(2), mapped) == []
    assert any("shows entity 3 of 2" in fault for fault in broken(pond, shows(3), mapped))


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"shares": {"homeward": 0.7}}, "add up to 0.7, not to 1"),
        ({"behaviour": None}, "shares and behaviour go together"),
        ({"behaviour": lambda name, rng: lambda state: 0.5}, r"did 0.5, which is not in Discrete\(3\)"),
        ({"page": {"title": "Pond"}}, "not 'title'"),
        (
            {"page": {"keys": {"up": {"keys": ["KeyW"]}}}},
            "keys for 'up', but the actions are .*drift, left, right",
        ),
        ({"page": {"examples": {"Red": 3}}}, "example 'Red' is a caption"),
        ({"editable": True}, "lacks write_state"),
        ({"event": lambda scene, rng: ("a", "b", {})}, "must be editable"),
        ({"claims": lambda caption: [{"smell": "sweet"}]}, "captions claim 'smell'"),
        ({"sizes": ()}, "the recipe names no size"),
        ({"folder": Path("/nowhere/at/all")}, "is not there"),
    ],
)
def test_a_recipe_that_breaks_a_rule_is_told_which(pond: Any, changes: dict[str, Any], sentence: str) -> None:
    found = faults(replace(pond.RECIPE, **changes))
    assert any(re.search(sentence, fault) for fault in found), found


def test_actions_that_the_simulator_does_not_take_are_a_fault(pond: Any) -> None:
    schema = replace(pond.RECIPE.schema, actions=("drift", "left"))
    assert any("the schema's actions are" in fault for fault in faults(replace(pond.RECIPE, schema=schema)))


def test_events_and_written_states_must_be_what_the_simulator_has_afterwards(pond: Any) -> None:
    class Written(pond.Pond):  # type: ignore[name-defined]
        slip = 0.0

        def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
            told = super().reset(seed=seed)
            if options is None:
                return told
            leaf = options["state"]["leaf"]
            self.leaf.colour = list(pond.COLOURS).index(leaf["colour"])
            self.leaf.position, self.leaf.velocity = (np.array(leaf[k]) + self.slip for k in ("position", "velocity"))
            return self._told(1)

        def write_state(self, edit: Any) -> np.ndarray:
            if isinstance(edit, np.ndarray):
                self.leaf.position, self.leaf.velocity = edit[1:3].astype(float) + self.slip, edit[3:5].astype(float)
            else:
                self.leaf.velocity = np.array(edit["leaf"]["velocity"]) + self.slip
            return self.state

        def render(self) -> np.ndarray:
            return self.leaf.picture()

    def gust(scene: Any, rng: np.random.Generator) -> Any:
        return "gust", "a gust of wind", {"leaf": {"velocity": (0.2, 0.0)}}

    world = replace(pond.RECIPE, make=Written, editable=True, event=gust)
    assert faults(world) == []
    Written.slip = 0.1
    found = faults(world)
    assert any("a state that was written reads otherwise, in leaf.position" in fault for fault in found)
    assert any("begins with another state, in leaf.position, leaf.velocity" in fault for fault in found)
    assert any("the event 'a gust of wind' is not what" in fault for fault in found)


def test_the_command_says_each_fault_and_ends_with_one(
    pond: Any, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["pond:RECIPE"]) == 0
    assert "keeps the contract" in capsys.readouterr().out
    monkeypatch.setattr(pond, "WRONG", replace(pond.RECIPE, page={"title": ""}), raising=False)
    assert main(["pond:WRONG"]) == 1
    out = capsys.readouterr().out
    assert out.startswith("* ")
    assert "pond:WRONG: 1 faults" in out
    assert main(["nowhere"]) == 1
    assert "no world is called 'nowhere'" in capsys.readouterr().err
