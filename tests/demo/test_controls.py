"""Keys, switches, sliders and sticks, and the actions they make."""

import numpy as np
import pytest
from gymnasium import spaces

from demo.controls import Controls
from tokenizer.action_space import ActionSpace

CAR = ActionSpace(
    spaces.Dict(gear=spaces.Discrete(3), lamp=spaces.MultiBinary(1), wheel=spaces.Box(-2, 1, (2,))),
    choices={"gear": ("none", "first", "back")},
)


def test_nothing_held_is_the_action_that_does_least():
    assert Controls(ActionSpace.named("none", "go")).action(0) == 0
    action = Controls(CAR).action(0)
    assert (action["gear"], action["lamp"].tolist()) == (0, [0])
    assert np.abs(action["wheel"]).max() <= 0.2, "the level nearest to 0"
    assert Controls(ActionSpace()).action(0) is None


def test_an_idle_choice_is_found_by_its_name_and_told_first():
    hand = Controls(ActionSpace.named("left", "right", "done"))
    assert hand.action(0) == 2
    assert [choice["label"] for choice in hand.describe()[0]["choices"]] == ["done", "left", "right"]
    hand.hold(["left"])
    assert hand.action(0) == 0


def test_very_many_choices_are_chosen_by_their_number():
    hand = Controls(ActionSpace(spaces.Discrete(100, start=1)))
    hand.hold([], {"action": 42})
    assert hand.action(0) == 42
    for wrong in (0, 101, 1.5):
        with pytest.raises(ValueError, match="choose from 1 to 100"):
            hand.hold([], {"action": wrong})


def test_held_choices_of_a_part_take_turns_while_the_others_stay():
    hand = Controls(CAR)
    hand.hold(["gear=first", "gear=back"], {"wheel.0": -1.5, "lamp": True})
    actions = [hand.action(time) for time in range(3)]
    assert [action["gear"] for action in actions] == [1, 2, 1]
    assert all(action["wheel"][0] == -1.5 and action["lamp"].tolist() == [1] for action in actions)
    hand.hold([])
    assert hand.action(0)["wheel"][0] == -1.5, "a slider stays where it was put"


@pytest.mark.parametrize(
    ("held", "values", "sentence"),
    [
        (["first"], {}, "no action 'first'; it has gear=none, gear=first, gear=back"),
        ([], {"gear": 1}, "no slider or switch 'gear'; it has lamp, wheel.0, wheel.1"),
        ([], {"wheel.0": 1.5}, "wheel.0: action 1.5 is outside"),
        ([], {"wheel.0": float("nan")}, "wheel.0: action nan is no such number"),
        ([], {"wheel.0": [1]}, "wheel.0: an action is a number"),
        ([], {"wheel.0": 10**400}, "401 digits is outside"),
        ([], {"lamp": 0.5}, "lamp: an action is 0 or 1, got 0.5"),
        ([], {"lamp": 2}, "lamp: action 2 is outside"),
    ],
)
def test_a_mistake_is_a_sentence_and_changes_nothing(held, values, sentence):
    hand = Controls(CAR)
    hand.hold(["gear=back"], {"lamp": 1})
    with pytest.raises(ValueError, match=sentence):
        hand.hold(held, {"lamp": 0, **values})
    assert (hand.action(0)["gear"], hand.action(0)["lamp"].tolist()) == (2, [1])


def test_two_numbers_of_one_vector_share_a_stick_and_others_have_sliders():
    keys = {"gear=first": {"keys": ["KeyX"], "sign": "1"}, "back": {"keys": ["KeyY"]}, "lamp": {"keys": ["KeyL"]}}
    gear, lamp, wheel = Controls(CAR, keys).describe()
    assert gear["choices"][1:] == [
        {"keys": ["KeyX"], "sign": "1", "held": "gear=first", "label": "first"},
        {"keys": ["KeyY"], "held": "gear=back", "label": "back"},
    ]
    assert (lamp["kind"], lamp["keys"]) == ("binary", ["KeyL"])
    assert (wheel["kind"], wheel["name"], [axis["name"] for axis in wheel["axes"]]) == (
        "stick",
        "wheel",
        ["wheel.0", "wheel.1"],
    )
    (many,) = Controls(ActionSpace(spaces.Discrete(100, start=1))).describe()
    assert (many["kind"], many["levels"][-1]) == ("binned", 100)
    three = Controls(ActionSpace(spaces.Box(-1, 1, (3,)))).describe()
    assert [control["kind"] for control in three] == ["binned"] * 3
    arm = spaces.Dict(arm=spaces.Dict(x=spaces.Box(-1, 1, ()), y=spaces.Box(-1, 1, ()), grip=spaces.Discrete(2)))
    assert [c["kind"] for c in Controls(ActionSpace(arm)).describe()] == ["stick", "choice"]
