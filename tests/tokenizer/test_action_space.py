import json
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from gymnasium.vector.utils import batch_space
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer.action_space import ActionSpace
from tokenizer.state_schema import StateSchema

MOVES = ActionSpace.named("none", "north", "south")
ARM = spaces.Dict(
    arm=spaces.Dict(x=spaces.Box(-1, 1, ()), y=spaces.Box(-1, 1, ())),
    grip=spaces.Discrete(2, start=5),
    rest=spaces.Tuple([spaces.Box(0, 4, (2,)), spaces.MultiBinary(2)]),
)


def leaves() -> st.SearchStrategy[gymnasium.Space[Any]]:
    small, start = st.integers(1, 5), st.integers(-3, 3)
    pairs = st.lists(st.tuples(small, start), min_size=1, max_size=4)
    ends = st.tuples(st.floats(-100, 100, width=32), st.floats(0.125, 50, width=32))
    return st.one_of(
        st.builds(lambda n, s: spaces.Discrete(n, start=s), small, start),
        st.builds(lambda p: spaces.MultiDiscrete([n for n, _ in p], start=[s for _, s in p]), pairs),
        st.just(spaces.MultiDiscrete(np.array([[2, 3], [4, 5]]), start=np.array([[0, 1], [-2, 7]]))),
        st.builds(spaces.MultiBinary, st.one_of(small, st.just((2, 3)))),
        st.builds(
            lambda e, shape: spaces.Box(e[0], e[0] + e[1], shape), ends, st.sampled_from([(), (1,), (3,), (2, 2)])
        ),
        st.builds(lambda low, n: spaces.Box(low, low + n, (2,), np.int32), start, st.integers(0, 40)),
    )


def nested() -> st.SearchStrategy[gymnasium.Space[Any]]:
    def around(inner: st.SearchStrategy[gymnasium.Space[Any]]) -> st.SearchStrategy[gymnasium.Space[Any]]:
        dicts = st.dictionaries(st.sampled_from(["arm", "leg", "eye"]), inner, min_size=1, max_size=3)
        return st.one_of(
            st.builds(spaces.Dict, dicts), st.builds(spaces.Tuple, st.lists(inner, min_size=1, max_size=3))
        )

    return st.recursive(leaves(), around, max_leaves=5)


def half_bins(space: ActionSpace) -> list[float]:
    """The farthest that a value may move on its way through ids, of every part."""
    return [max(np.diff(p.levels), default=0.0) / 2 + 1e-5 if p.levels else 0.0 for p in space.parts]


# -- round trips --------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(nested(), st.integers(0, 2**31))
def test_any_action_comes_back_exactly_from_values_and_within_half_a_bin_from_ids(space, seed):
    space.seed(seed)
    ours, action = ActionSpace(space), space.sample()
    values = ours.flatten(action)
    assert values.shape == (ours.num_parts,)
    assert np.array_equal(ours.flatten(ours.unflatten(values)), values)
    assert all(map(np.array_equal, _flat(ours.unflatten(values)), _flat(action)))
    ids = ours.batch(action, 3)
    assert ids.shape == (3, ours.num_parts)
    back = ours.ids_to_values(ids)[0].numpy()
    assert np.all(np.abs(back - values) <= half_bins(ours))
    assert space.contains(ours.unflatten(back)), "what ids mean is an action of the space"
    assert torch.equal(ours.values_to_ids(back), ids[0]), "a level is its own nearest"


@settings(max_examples=60, deadline=None)
@given(nested(), st.integers(0, 2**31))
def test_gymnasiums_batches_mean_the_same_as_one_action_after_the_other(space, seed):
    together = batch_space(space, 3)
    together.seed(seed)
    ours, batch = ActionSpace(space), together.sample()
    singles = list(gymnasium.vector.utils.iterate(together, batch))
    assert torch.equal(ours.batch(batch, 3), torch.cat([ours.batch(one, 1) for one in singles]))
    assert torch.equal(ours.batch(singles, 3), ours.batch(batch, 3))


@settings(max_examples=60, deadline=None)
@given(nested())
def test_a_space_comes_back_from_json(space):
    ours = ActionSpace(space)
    again = ActionSpace.from_json(json.loads(json.dumps(ours.to_json(), allow_nan=False)))
    assert again == ours
    assert hash(again) == hash(ours)
    assert again.num_ids == ours.num_ids


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-5, 5, width=32), min_size=1, max_size=40),
    st.integers(2, 12),
    st.sampled_from(["uniform", "quantile"]),
)
def test_fitted_bins_hold_the_data_within_half_a_bin(data, bins, by):
    values = np.array(data, dtype=np.float32)[:, None]
    fitted = ActionSpace(spaces.Box(-np.inf, np.inf, (1,))).fit(values, bins=bins, by=by)
    assert fitted.num_ids <= bins
    levels = np.array(fitted.parts[0].levels)
    back = fitted.ids_to_values(fitted.values_to_ids(values)).numpy()
    nearest = np.abs(levels - values).min(1)
    assert np.allclose(np.abs(back - values)[:, 0], nearest, atol=1e-5)
    assert ActionSpace.from_json(json.loads(json.dumps(fitted.to_json(), allow_nan=False))) == fitted


def _flat(action: Any) -> list[np.ndarray]:
    if isinstance(action, dict | tuple):
        members = action.values() if isinstance(action, dict) else action
        return [leaf for member in members for leaf in _flat(member)]
    return [np.asarray(action)]


# -- names and numbers --------------------------------------------------------------------------------


def test_names_and_numbers_mean_the_same_action():
    assert MOVES.batch("north", 1).tolist() == MOVES.batch(np.int64(1), 1).tolist() == [[1]]
    assert (MOVES.num_parts, MOVES.num_ids, MOVES.discrete) == (1, 3, True)


@pytest.mark.parametrize("action", ["up", 3, -1, 1.0, None, True, [None], np.float64(1), torch.tensor(True)])
def test_an_unknown_action_is_refused_with_the_names(action):
    with pytest.raises(ValueError, match="choose from 0 none, 1 north, 2 south"):
        MOVES.batch(action, 1)


@pytest.mark.parametrize(
    "actions",
    [
        "north",
        1,
        np.int64(1),
        torch.tensor(1),
        torch.tensor([1, 1]),
        ["north", 1],
        np.array(["north", "north"]),
        [[1]] * 2,
    ],
)
def test_a_batch_takes_one_action_for_all_or_one_for_each(actions):
    assert MOVES.batch(actions, 2).tolist() == [[1], [1]]


def test_a_batch_of_the_wrong_length_is_refused():
    for wrong in ([0, 1, 2], np.array([0, 1, 2]), [1]):
        with pytest.raises(ValueError, match=f"{len(wrong)} actions for 2 worlds"):
            MOVES.batch(wrong, 2)
    with pytest.raises(ValueError, match="a name or a whole number"):
        MOVES.batch(torch.tensor([0.5, 1.0]), 2)


def test_equal_names_are_refused():
    with pytest.raises(ValueError, match="must differ"):
        ActionSpace.named("left", "left")


def test_a_world_without_actions_has_no_parts_and_takes_none_only():
    nobody = ActionSpace()
    assert not nobody
    assert nobody.batch(None, 2).shape == nobody.sample(2).shape == (2, 0)
    assert nobody.idle() is None
    for action in (0, "north", [0, 0]):
        with pytest.raises(ValueError, match="takes no actions"):
            nobody.batch(action, 2)


def test_choices_of_several_parts_are_named_by_part():
    pad = ActionSpace(spaces.MultiDiscrete([2, 3]), names=("fire", "move"), choices={"move": ("stay", "left", "right")})
    assert pad.batch([1, "right"], 1).tolist() == [[1, 2 + 2]]
    with pytest.raises(ValueError, match="move: unknown action 'up'; choose from 0 stay, 1 left, 2 right"):
        pad.batch([1, "up"], 1)
    with pytest.raises(ValueError, match="no action part 'jump'"):
        ActionSpace(spaces.Discrete(2), choices={"jump": ("no", "yes")})
    with pytest.raises(ValueError, match="was given 3 names and has 2 choices"):
        ActionSpace(spaces.Discrete(2), choices=("a", "b", "c"))


# -- several parts ------------------------------------------------------------------------------------


def test_nested_spaces_are_flattened_under_their_names():
    ours = ActionSpace(ARM)
    assert [p.name for p in ours.parts] == ["arm.x", "arm.y", "grip", "rest.0.0", "rest.0.1", "rest.1.0", "rest.1.1"]
    assert ours.num_ids == 11 + 11 + 2 + 11 + 11 + 2 + 2
    assert ours.offsets == (0, 11, 22, 24, 35, 46, 48)
    assert not ours.discrete


def test_members_of_a_dict_may_be_for_all_rows_or_for_each():
    ours = ActionSpace(spaces.Dict(go=spaces.Discrete(3), turn=spaces.Box(-1, 1, (2,))))
    ids = ours.batch({"go": [0, 2], "turn": [-1.0, 1.0]}, 2)
    assert ids.tolist() == [[0, 3, 3 + 11 + 10], [2, 3, 3 + 11 + 10]]


def test_values_of_all_parts_are_actions_too():
    ours = ActionSpace(ARM)
    values = ours.flatten(ours.idle())
    assert values.dtype == np.float32
    assert values.tolist() == [0, 0, 5, 0, 0, 0, 0]
    assert torch.equal(ours.batch(torch.from_numpy(values), 2), ours.batch(ours.idle(), 2))
    assert torch.equal(ours.batch(np.stack([values, values]), 2), ours.batch(ours.idle(), 2))


@pytest.mark.parametrize(
    ("space", "action", "sentence"),
    [
        (spaces.Box(-1, 1, (2,)), [0.0, np.nan], "1: action nan is no such number; choose from a number from -1 to 1"),
        (spaces.Box(-1, 1, (2,)), [0.0, 1.5], r"1: action 1.5 is outside \[-1, 1\]"),
        (spaces.Box(-1, 1, (2,)), [0.0, np.inf], r"1: action inf is outside"),
        (spaces.Box(-np.inf, np.inf, (2,)), [0.0, -np.inf], "no such number"),
        (spaces.Box(-1, 1, (2,)), [0.0], r"an action has shape \(2,\), or \(3, 2\) for one each, got \(1,\)"),
        (spaces.Box(-1, 1, (2,)), 0.0, r"an action has shape \(2,\)"),
        (spaces.Box(-1, 1, (2,)), [[0.0, 0.0]] * 2, r"got \(2, 2\)"),
        (spaces.Box(-1, 1, (2,)), [0.0, True], "1: an action is a number, got True"),
        (spaces.Box(-1, 1, (2,)), ["left", 0.0], "0: unknown action 'left'; choose from a number from -1 to 1"),
        (spaces.Box(0, 255, (1,), np.uint8), [3.5], "a whole number from 0 to 255"),
        (spaces.MultiDiscrete([2, 3], start=[1, 1]), [0, 1], "0: action 0 is outside"),
        (spaces.MultiDiscrete([2, 3]), np.array([0.0, 1.0]), "0: an action is a whole number, got 0.0"),
        (spaces.MultiBinary(2), [0, 2], r"1: action 2 is outside \[0, 1\]; choose from 0 or 1"),
        (ARM, {"arm": 1}, "an action is a dict with arm, grip, rest, got one with arm"),
        (ARM, 3, "an action is a dict with arm, grip, rest, got 3"),
        (ARM, [{}, {}], "2 actions for 3 worlds"),
        (spaces.Tuple([spaces.Discrete(2)] * 2), (1,), r"an action is a tuple of 2, got \(1,\)"),
        (spaces.Tuple([spaces.Discrete(2)] * 2), (1, 2), r"1: action 2 is outside \[0, 1\]"),
        (spaces.Tuple([spaces.Discrete(2)] * 2), np.array([1, 2]), r"1: action 2 is outside \[0, 1\]"),
        (spaces.Tuple([spaces.Discrete(2)] * 2), np.zeros(3), r"\(2,\) numbers, or \(3, 2\) for one each"),
    ],
)
def test_what_the_space_does_not_hold_is_refused_with_what_is_right(space, action, sentence):
    with pytest.raises(ValueError, match=sentence):
        ActionSpace(space).batch(action, 3)


@pytest.mark.parametrize(
    "space",
    [
        spaces.Text(4),
        spaces.Graph(spaces.Discrete(2), None),
        spaces.Sequence(spaces.Discrete(2)),
        spaces.Dict(go=spaces.Discrete(2), say=spaces.Text(4)),
    ],
)
def test_spaces_without_a_fixed_number_of_ids_are_refused(space):
    with pytest.raises(ValueError, match="has no fixed number of ids an action: use Discrete, MultiDiscrete"):
        ActionSpace(space)


def test_ids_of_another_part_are_refused():
    ours = ActionSpace(spaces.MultiDiscrete([2, 3]))
    assert ours.ids_to_values(torch.tensor([1, 4])).tolist() == [1, 2]
    for ids in ([2, 4], [-1, 2], [0, 5]):
        with pytest.raises(ValueError, match=r"is outside the ids of '[01]'"):
            ours.ids_to_values(torch.tensor(ids))
    with pytest.raises(ValueError, match=r"whole numbers of shape \(..., 2\)"):
        ours.ids_to_values(torch.tensor([0.0, 2.0]))


# -- bins ---------------------------------------------------------------------------------------------


def test_a_symmetric_range_holds_zero_and_both_ends_exactly():
    ours = ActionSpace(spaces.Box(-0.7, 0.7, (2,)), bins={"1": 5})
    assert [len(p.levels) for p in ours.parts] == [11, 5]
    for value in (0.0, -0.7, 0.7):
        back = ours.ids_to_values(ours.batch([value, value], 1))[0].numpy()
        assert np.array_equal(back, np.array([value, value], np.float32))


def test_whole_numbers_that_are_few_have_a_bin_each():
    ours = ActionSpace(spaces.Box(-3, 4, (1,), np.int8))
    assert ours.parts[0].levels == (-3, -2, -1, 0, 1, 2, 3, 4)
    assert ActionSpace(spaces.Box(0, 255, (1,), np.uint8)).parts[0].levels[:2] == (0, 26)


def test_a_box_without_bounds_says_that_its_bins_must_be_fitted():
    loose = ActionSpace(spaces.Dict(thrust=spaces.Box(0, np.inf, ())))
    assert not loose.fitted
    assert loose.flatten({"thrust": 3.5}).tolist() == [3.5], "it can be recorded"
    for use in (lambda: loose.num_ids, lambda: loose.batch({"thrust": 3.5}, 1), lambda: loose.sample(1)):
        with pytest.raises(ValueError, match="'thrust' has no bounds: fit bins to recorded values first"):
            use()
    fitted = loose.fit(torch.tensor([[1.0], [4.0]]), bins=5)
    assert fitted.parts[0].levels == (0, 1, 2, 3, 4)
    with pytest.raises(ValueError, match=r"5 is outside.*fit bins to data that reach so far"):
        fitted.batch({"thrust": 5.0}, 1)
    assert fitted.fit([[8.0]]).parts[0].levels[-1] == 8, "a fitted space can be fitted again"


def test_quantile_bins_lie_where_the_values_do_and_still_reach_the_ends():
    values = np.concatenate([np.random.default_rng(0).normal(0, 0.05, (500, 1)), [[0.9]]])
    fitted = ActionSpace(spaces.Box(-1, 1, (1,))).fit(values, bins=9, by="quantile")
    levels = np.array(fitted.parts[0].levels)
    assert (levels[0], levels[-1]) == (-1, 1)
    assert np.abs(levels[1:-1]).max() < 0.15
    with pytest.raises(ValueError, match="set by 'uniform' or 'quantile', got 'magic'"):
        fitted.fit(values, by="magic")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give at least one"):
        fitted.fit(np.zeros((0, 1)))
    with pytest.raises(ValueError, match="action nan"):
        fitted.fit([[np.nan]])


def test_random_actions_are_of_the_space_and_repeat_with_the_seed():
    ours = ActionSpace(ARM)
    drawn = [ours.sample(4, 5, generator=torch.Generator().manual_seed(3)) for _ in range(2)]
    assert torch.equal(*drawn)
    assert drawn[0].shape == (4, 5, ours.num_parts)
    assert ours.values_to_ids(drawn[0]).float().std() > 1


# -- in a schema --------------------------------------------------------------------------------------


def test_a_schema_takes_names_or_spaces_and_keeps_names_as_a_list_in_json():
    assert StateSchema(name="a", actions=("none", "go")).actions == ActionSpace.named("none", "go")
    assert StateSchema(name="a", actions=("none", "go")).to_json()["actions"] == ["none", "go"]
    assert StateSchema(name="a").to_json()["actions"] == []
    for space in (ARM, ActionSpace(ARM).fit(ActionSpace(ARM).sample(50), by="quantile"), ("none",), None):
        schema = StateSchema(name="a", actions=space)
        again = StateSchema.from_json(json.loads(json.dumps(schema.to_json())))
        assert again == schema
        assert again.actions == schema.actions
    assert StateSchema(name="a", actions=ARM) != StateSchema(name="a")
