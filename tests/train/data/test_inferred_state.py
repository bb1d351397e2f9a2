"""What is inferred of a state's numbers is what made them, holds what comes later, and can be edited."""

from __future__ import annotations

from dataclasses import replace
from math import pi
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

from tokenizer.state_codec import StateCodec
from tokenizer.state_schema import Entity, Field, StateSchema
from train.data.inferred_state import StateFitter, infer_state

STEPS, EPISODES = 80, 12


def episodes(make, count: int = EPISODES) -> list[np.ndarray]:
    """One column of numbers, made by ``make(rng, steps)`` an episode."""
    return [np.asarray(make(np.random.default_rng(i)), np.float32).reshape(-1, 1) for i in range(count)]


def only(values: list[np.ndarray]) -> Field:
    """The field that one column is taken for."""
    found = infer_state(values, ["it"])
    assert [entity.name for entity in found.entities] == ["state"]
    return found.entities[0].fields[0]


def walk(rng: np.random.Generator, size: float = 0.2) -> np.ndarray:
    return np.cumsum(rng.normal(0, size, STEPS))


def test_flags_categories_and_whole_numbers_are_told_apart():
    flag = only(episodes(lambda rng: rng.integers(0, 2, STEPS)))
    chosen = only(episodes(lambda rng: rng.integers(0, 5, STEPS)))
    whole = only(episodes(lambda rng: rng.integers(-3, 4, STEPS)))
    assert (flag.kind, chosen.kind, whole.kind) == ("flag", "categorical", "continuous")
    assert chosen.names == ("0", "1", "2", "3", "4")
    codec = StateCodec(schema_of(whole))
    numbers = torch.arange(-3, 4).float()[:, None]
    assert torch.equal(codec.decode(codec.encode(numbers, "absolute"), "absolute", numbers), numbers)


@pytest.mark.parametrize(("turn", "low"), [(2 * pi, -pi), (2 * pi, 0.0), (360.0, -180.0), (360.0, 0.0)])
def test_what_jumps_by_a_turn_is_an_angle(turn: float, low: float):
    angle = only(episodes(lambda rng: low + (walk(rng, 0.03 * turn) - low) % turn))
    assert angle.periodic
    assert (angle.low, angle.high) == pytest.approx((low, low + turn))
    assert angle.change is not None
    assert angle.change < turn / 4  # the jump is not a change


def test_what_never_jumps_or_jumps_everywhere_is_no_angle():
    assert not only(episodes(lambda rng: 3 * np.tanh(walk(rng)))).periodic
    jumping = only(episodes(lambda rng: rng.uniform(-pi, pi, STEPS)))
    assert not jumping.periodic
    assert jumping.change is None  # it is said anew in each step
    teleported = only(episodes(lambda rng: np.where(np.arange(STEPS) % 20 < 10, 2.0, -2.0) + 0.01 * walk(rng)))
    assert not teleported.periodic


def test_a_range_has_a_margin_but_not_at_a_wall():
    free = only(episodes(lambda rng: walk(rng)))
    held = only(episodes(lambda rng: walk(rng).clip(-1, 0.5)))
    seen = np.concatenate(episodes(lambda rng: walk(rng)))
    assert free.low < seen.min() - 0.05 * np.ptp(seen)
    assert free.high > seen.max() + 0.05 * np.ptp(seen)
    assert (held.low, held.high) == (-1.0, 0.5)
    assert len(f"{free.low:g}{free.high:g}") < 12  # ends that a person can read


def test_changes_reach_what_was_seen_and_bins_tell_the_middle_apart():
    values = episodes(lambda rng: walk(rng))
    field = only(values)
    assert field.change is not None
    assert field.change > max(np.abs(np.diff(part[:, 0])).max() for part in values)
    heavy = only(episodes(lambda rng: np.append(walk(rng, 0.01), 100.0 * rng.random())))
    assert heavy.bins == 256
    assert heavy.bins > field.bins


def test_what_stays_is_static_only_on_enough_evidence():
    def goal(rng: np.random.Generator) -> np.ndarray:
        return np.full(STEPS, rng.uniform(-1, 1))

    assert only(episodes(goal)).static
    assert not only(episodes(goal, count=4)).static
    always = only(episodes(lambda rng: np.full(STEPS, 3.0), count=4))
    schema = schema_of(always)
    codec, three = StateCodec(schema), torch.full((1, 1), 3.0)
    assert torch.equal(codec.decode(codec.encode(three, "absolute"), "absolute", three), three)


def test_cosine_and_sine_are_found_and_end_at_one():
    angles = [walk(np.random.default_rng(i)) for i in range(EPISODES)]
    values = [np.stack([np.cos(a), 0.3 * a, np.sin(a)], 1) for a in angles]
    found = infer_state(values, ["c", "other", "s"])
    fields = found.entities[0].fields
    assert [(f.low, f.high) for f in (fields[0], fields[2])] == [(-1.0, 1.0)] * 2
    assert fields[1].low < -1
    assert any("c and s are an angle's cosine and sine" in line for line in found.said)


def test_names_are_kept_and_group_where_they_stand_together():
    values = [np.random.default_rng(i).normal(size=(STEPS, 4)) for i in range(3)]
    grouped = infer_state(values, ["hand.x", "hand.y", "cup.x", "light"])
    assert [(e.name, [f.name for f in e.fields]) for e in grouped.entities] == [
        ("hand", ["x", "y"]), ("cup", ["x"]), ("state", ["light"]),
    ]  # fmt: skip
    mixed = infer_state(values, ["hand.x", "cup.x", "hand.y", "obs.0"])
    assert [f.name for f in mixed.entities[0].fields] == ["hand.x", "cup.x", "hand.y", "obs.0"]
    twice = infer_state(values, ["a", "a", "b", "c"])
    assert [f.name for f in twice.entities[0].fields] == ["a.0", "a.1", "b", "c"]
    for found in (grouped, mixed, twice):
        assert len(found.said) == 4
        assert StateSchema(name="s", entities=found.entities).num_values == 4


def test_many_bytes_share_their_ids():
    values = [np.random.default_rng(i).integers(0, 256, (STEPS, 129)) for i in range(3)]
    schema = StateSchema(name="s", entities=infer_state(values, [*(f"ram.{i}" for i in range(128)), "x"]).entities)
    assert schema.num_values == 129
    assert schema.num_local_ids <= 512


def test_broken_numbers_are_refused_by_name():
    values = episodes(walk)
    values[2][7] = np.nan
    with pytest.raises(ValueError, match=r"it is nan in step 7 of episode 2, .*mend it"):
        infer_state(values, ["it"])
    with pytest.raises(ValueError, match=r"2 names want .*give one name a number"):
        infer_state(values, ["it", "that"])
    with pytest.raises(ValueError, match="record an episode"):
        infer_state([np.zeros((0, 1))], ["it"])


def test_later_values_are_held_and_said():
    schema = schema_of(only(episodes(lambda rng: walk(rng).clip(-1, 1))))
    fitter = StateFitter(schema)
    later = np.array([[0.5], [1.5], [-3.0]])
    assert fitter(later).tolist() == [[0.5], [1.0], [-1.0]]
    assert later[1] == 1.5
    assert fitter.said == ("state.it = -3 is beyond -1 to 1 and is held there: widen its range",)
    with pytest.raises(ValueError, match=r"state.it is no finite number in step 1"):
        fitter(np.array([[0.0], [np.inf]]))
    goal = StateFitter(schema_of(replace(schema.entities[0].fields[0], static=True, change=None)))
    assert goal(np.array([[0.5], [0.7]])).ravel().tolist() == pytest.approx([0.5, 0.7])
    assert "give it static: false" in goal.said[0]


def test_a_schema_is_edited_as_yaml(tmp_path: Path):
    values = [np.stack([walk(np.random.default_rng(i)), np.arange(STEPS) % 3, np.ones(STEPS)], 1) for i in range(12)]
    schema = StateSchema(name="s", entities=infer_state(values, ["x", "on", "no"]).entities)
    text = yaml.safe_dump(schema.brief_json(), sort_keys=False)
    assert StateSchema.from_json(yaml.safe_load(text)) == schema
    assert "size" not in text  # what says nothing is left out
    wider = StateSchema.from_json(yaml.safe_load(text.replace("unit", "").replace("high:", "high: 99 #", 1)))
    assert wider.entities[0].fields[0].high == 99


@pytest.mark.parametrize(
    ("key", "value", "sentence"),
    [
        ("hihg", 3, "field 'state.it' has no setting 'hihg': did you mean 'high'?"),
        ("bins", "many", "field 'state.it' has bins = 'many': write a whole number"),
        ("bins", True, "field 'state.it' has bins = True: write a whole number"),
        ("low", 1e9, "field 'it': a continuous field needs low < high"),
        ("kind", "angle", "field 'it' has the unknown kind 'angle'"),
        ("names", [1, 2], "put each in quotes"),
    ],
)
def test_a_wrong_edit_is_refused_in_a_sentence(key: str, value: object, sentence: str):
    about = schema_of(only(episodes(walk))).brief_json()
    about["entities"][0]["fields"][0][key] = value
    with pytest.raises(ValueError, match=sentence.replace("?", r"\?")):
        StateSchema.from_json(about)


def schema_of(field: Field) -> StateSchema:
    return StateSchema(name="s", entities=(Entity(name="state", fields=(field,)),))
