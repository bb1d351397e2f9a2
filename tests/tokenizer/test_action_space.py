import numpy as np
import pytest
import torch

from tokenizer.action_space import ActionSpace

ACTIONS = ActionSpace(("none", "north", "south"))


def test_names_and_numbers_mean_the_same_action():
    assert ACTIONS.index("north") == ACTIONS.index(1) == ACTIONS.batch(np.int64(1), 1)[0] == 1
    assert len(ACTIONS) == 3


@pytest.mark.parametrize("action", ["up", 3, -1, 1.0, None, True])
def test_an_unknown_action_is_refused_with_the_names(action):
    with pytest.raises(ValueError, match="choose from 0 none, 1 north, 2 south"):
        ACTIONS.index(action)


@pytest.mark.parametrize("actions", ["north", 1, np.int64(1), torch.tensor(1), torch.tensor([1, 1]), ["north", 1]])
def test_a_batch_takes_one_action_for_all_or_one_for_each(actions):
    assert ACTIONS.batch(actions, 2).tolist() == [1, 1]


def test_a_batch_of_the_wrong_length_is_refused():
    with pytest.raises(ValueError, match="3 actions for 2 worlds"):
        ACTIONS.batch([0, 1, 2], 2)
    with pytest.raises(ValueError, match="a name or a whole number"):
        ACTIONS.batch(torch.tensor([0.5, 1.0]), 2)


def test_equal_names_are_refused():
    with pytest.raises(ValueError, match="must differ"):
        ActionSpace(("left", "left"))


def test_a_world_without_actions_says_so():
    with pytest.raises(ValueError, match="takes no actions"):
        ActionSpace(()).index(0)
