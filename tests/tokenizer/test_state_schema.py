"""A state survives its ids within half a bin, and people read and write it by name."""

from __future__ import annotations

import json
from math import pi
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tokenizer.state_schema import Entity, Field, StateSchema, View

names = st.lists(st.sampled_from("abcdef"), min_size=1, max_size=4, unique=True).map(tuple)


@st.composite
def fields(draw: st.DrawFn, name: str) -> Field:
    """Any field that the schema allows."""
    kind = draw(st.sampled_from(["continuous", "categorical", "flag", "bits"]))
    common: dict[str, Any] = {"name": name, "kind": kind, "role": "thing", "static": draw(st.booleans())}
    common["size"] = draw(st.integers(1, 19 if kind == "bits" else 3))
    if kind == "categorical":
        return Field(**common, names=draw(names))
    if kind != "continuous":
        return Field(**common)
    low, width = draw(st.floats(-10, 10)), draw(st.floats(0.1, 20))
    change = None
    if not common["static"] and draw(st.booleans()):
        change = draw(st.floats(0.01, 0.5)) * width
    return Field(
        **common,
        low=low,
        high=low + width,
        bins=draw(st.integers(2, 300)),
        periodic=draw(st.booleans()),
        change=change,
        change_bins=draw(st.sampled_from([3, 9, 65, 129])),
    )


@st.composite
def schemas(draw: st.DrawFn) -> StateSchema:
    entities = []
    for i in range(draw(st.integers(0, 3))):
        count = draw(st.integers(1, 4))
        entities.append(Entity(name=f"e{i}", fields=tuple(draw(fields(f"f{j}")) for j in range(count))))
    return StateSchema(name="any", entities=tuple(entities), actions=("go",))


def some_state(schema: StateSchema, batch: int = 3, seed: int = 0) -> torch.Tensor:
    """Legal values of every field."""
    chance = torch.Generator().manual_seed(seed)
    values = torch.zeros(batch, schema.num_values)
    for entity in schema.entities:
        for f in entity.fields:
            here = schema.columns(entity.name, f.name)
            part = torch.rand(batch, f.size, generator=chance)
            match f.kind:
                case "continuous":
                    part = (f.low + part * (f.high - f.low)).clamp(f.low, f.high)
                case "categorical":
                    part = (part * len(f.names)).floor()
                case _:
                    part = (part > 0.5).float()
            values[:, here] = part
    return values


def bins(schema: StateSchema) -> torch.Tensor:
    """Width of a bin of every value; 0 where ids are exact."""
    width = torch.zeros(schema.num_values)
    for entity in schema.entities:
        for f in entity.fields:
            if f.kind == "continuous":
                width[schema.columns(entity.name, f.name)] = (f.high - f.low) / f.bins
    return width


# -- values and ids ---------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(schemas(), st.integers(0, 2**31))
def test_a_state_comes_back_within_half_a_bin(schema: StateSchema, seed: int):
    state = some_state(schema, seed=seed)
    blank = torch.full_like(state, float("nan"))
    decoded = schema.decode(schema.encode(state, "absolute"), "absolute", blank)
    decoded = schema.decode(schema.encode(state, "static"), "static", decoded)
    assert ((decoded - state).abs() <= bins(schema) / 2 * 1.001 + 1e-4).all()


@settings(deadline=None, max_examples=40)
@given(schemas(), st.integers(0, 2**31))
def test_ids_stay_in_their_slots_legal_ranges(schema: StateSchema, seed: int):
    state, previous = some_state(schema, seed=seed), some_state(schema, seed=seed + 1)
    for coding in ("static", "absolute", "change"):
        ids, legal = schema.encode(state, coding, previous), schema.legal_ranges(coding)
        assert ids.shape == (3, len(legal))
        assert ((legal[:, 0] <= ids) & (ids < legal[:, 1])).all()
        assert (legal[:, 1] <= schema.num_local_ids).all()


@settings(deadline=None, max_examples=40)
@given(schemas(), st.integers(0, 2**31))
def test_a_change_comes_back_finest_near_zero_and_stays_in_range(schema: StateSchema, seed: int):
    previous, state = some_state(schema, seed=seed), some_state(schema, seed=seed + 1)
    decoded = schema.decode(schema.encode(state, "change", previous), "change", previous)
    for slot in schema.slots:
        f, here = slot.field, slot.columns
        if f.change is None:
            continue
        assert (decoded[:, here] >= f.low - 1e-4).all()
        assert (decoded[:, here] <= f.high + 1e-4).all()
        asked = f.difference(state[:, here], previous[:, here])
        centres = f.change_centres()
        got = f.decode_change(f.encode_change(asked))
        reach = torch.diff(centres).max()
        within = asked.abs() <= f.change
        assert ((got - asked).abs()[within] <= reach).all()
        assert torch.equal(got[~within], (asked.sign() * f.change)[~within].clamp(centres[0], centres[-1]))


@settings(deadline=None, max_examples=40)
@given(schemas())
def test_no_change_is_exactly_no_change(schema: StateSchema):
    state = some_state(schema)
    decoded = schema.decode(schema.encode(state, "change", state), "change", state)
    for slot in schema.slots:
        if slot.field.change is not None and not slot.field.periodic:
            assert torch.equal(decoded[:, slot.columns], state[:, slot.columns])


def test_change_bins_are_finest_near_zero():
    f = Field(name="x", kind="continuous", role="position", low=-1, high=1, bins=8, change=0.5, change_bins=65)
    centres = f.change_centres()
    assert centres[32] == 0
    assert centres[-1] == pytest.approx(0.5)
    widths = torch.diff(centres)
    assert (torch.diff(widths[32:]) > 0).all()
    assert torch.allclose(widths, widths.flip(0))
    assert (centres.abs() < 0.05).float().mean() > 0.4  # about half of the bins in a tenth of the range


def test_a_periodic_value_changes_the_short_way_round():
    f = Field(
        name="a", kind="continuous", role="light", low=-pi, high=pi, bins=64, periodic=True, change=0.5, change_bins=65
    )
    schema = StateSchema(name="s", entities=(Entity(name="light", fields=(f,)),))
    before, after = torch.tensor([[3.1]]), torch.tensor([[-3.1]])
    assert f.difference(after, before).item() == pytest.approx(2 * pi - 6.2, abs=1e-5)
    decoded = schema.decode(schema.encode(after, "change", before), "change", before)
    assert decoded.item() == pytest.approx(-3.1, abs=0.01)
    assert f.encode_absolute(torch.tensor([pi + 0.1])) == f.encode_absolute(torch.tensor([0.1 - pi]))


def test_entities_of_one_specification_share_their_ids():
    f = Field(name="x", kind="continuous", role="position", low=0, high=1, bins=10)
    other = Field(name="x", kind="continuous", role="position", low=0, high=1, bins=11)
    two = StateSchema(name="s", entities=tuple(Entity(name=n, fields=(f,)) for n in "ab"))
    three = StateSchema(name="s", entities=(*two.entities, Entity(name="c", fields=(other,))))
    assert two.num_local_ids == 10
    assert three.num_local_ids == 21
    assert two.legal_ranges("absolute").tolist() == [[0, 10], [0, 10]]


# -- people's view ----------------------------------------------------------------------------------


@settings(deadline=None, max_examples=40)
@given(schemas(), st.integers(0, 2**31))
def test_what_is_read_by_name_can_be_written_back(schema: StateSchema, seed: int):
    state = some_state(schema, batch=1, seed=seed)[0]
    written = schema.write(torch.zeros_like(state), schema.to_dict(state))
    periodic = torch.zeros(schema.num_values)
    for entity in schema.entities:
        for f in entity.fields:
            if f.periodic and f.kind == "continuous":
                periodic[schema.columns(entity.name, f.name)] = f.high - f.low
    gap = (written - state).abs()
    assert ((gap < 1e-4) | ((gap - periodic).abs() < 1e-4)).all()


@settings(deadline=None, max_examples=40)
@given(schemas())
def test_a_schema_comes_back_from_json(schema: StateSchema):
    assert StateSchema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


def test_a_view_comes_back_from_json():
    schema = StateSchema(name="s", view=View(kind="orbit", distance=2.0, target=(0.0, 0.1, 0.2)), fps=30)
    assert StateSchema.from_json(json.loads(json.dumps(schema.to_json()))) == schema


BODY = Entity(
    name="ball",
    fields=(
        Field(name="colour", kind="categorical", role="colour", static=True, names=("red", "blue")),
        Field(name="position", kind="continuous", role="position", unit="m", size=2, low=-0.5, high=0.5, bins=8),
        Field(name="yaw", kind="continuous", role="orientation", low=0, high=1, bins=8, periodic=True),
        Field(name="lit", kind="flag", role="lit"),
    ),
)
TABLE = StateSchema(name="table", entities=(BODY,))


def test_an_edit_writes_names_numbers_and_flags_into_a_copy():
    state = torch.zeros(2, TABLE.num_values)
    edit = {"ball": {"colour": "blue", "position": (0.25, -0.5), "yaw": 1.25, "lit": True}}
    written = TABLE.write(state, edit)
    assert not state.any()
    for row in written:
        assert TABLE.to_dict(row) == {"ball": {"colour": "blue", "position": (0.25, -0.5), "yaw": 0.25, "lit": True}}
    numbers = TABLE.write(state, {"ball": {"colour": 1, "position": torch.tensor([0.25, -0.5]), "yaw": 0.25, "lit": 1}})
    assert torch.equal(numbers, written)
    arrays = {"colour": np.int64(1), "position": np.array([0.25, -0.5]), "yaw": np.float32(0.25), "lit": np.True_}
    assert torch.equal(TABLE.write(state, {"ball": arrays}), written)


@pytest.mark.parametrize(
    ("edit", "mend"),
    [
        ({"box": {}}, "no entity 'box' in 'table'; it has ball"),
        ({"ball": {"mass": 1}}, "'ball' has no field 'mass'; it has colour, position, yaw, lit"),
        ({"ball": {"colour": "green"}}, "ball.colour cannot be 'green'; choose from red, blue"),
        ({"ball": {"colour": 2}}, "ball.colour cannot be 2; choose from red, blue"),
        ({"ball": {"position": 0.1}}, r"ball.position has 2 component\(s\), got 1"),
        ({"ball": {"position": (0.1, 0.2, 0.3)}}, r"ball.position has 2 component\(s\), got 3"),
        ({"ball": {"position": (0.1, 0.7)}}, r"ball.position = 0.7 is outside \[-0.5, 0.5\] m"),
        ({"ball": {"position": (0.1, float("nan"))}}, r"ball.position = nan is outside"),
        ({"ball": {"yaw": float("inf")}}, r"ball.yaw = inf is no number"),
        ({"ball": {"position": ("here", "there")}}, r"ball.position takes numbers, got 'here'"),
        ({"ball": {"lit": None}}, r"ball.lit takes numbers, got None"),
        ({"ball": 0.3}, r"an edit of 'ball' names its fields, as in"),
    ],
)
def test_a_wrong_edit_is_answered_with_the_mend(edit: Any, mend: str):
    with pytest.raises(ValueError, match=mend):
        TABLE.write(torch.zeros(TABLE.num_values), edit)


def test_a_state_of_the_wrong_size_is_refused():
    with pytest.raises(ValueError, match=r"a state of 'table' has 5 values, got shape \(4,\)"):
        TABLE.to_dict(torch.zeros(4))


def test_columns_are_found_by_name_and_by_role():
    assert TABLE.columns("ball", "position") == slice(1, 3)
    assert TABLE.role_columns("position") == {"ball": slice(1, 3)}
    assert TABLE.role_columns("reward") == {}
    with pytest.raises(ValueError, match="'ball' has no field 'size'"):
        TABLE.columns("ball", "size")


@pytest.mark.parametrize(
    ("wrong", "mend"),
    [
        ({"kind": "continuous", "low": 1, "high": 1, "bins": 4}, "low < high and at least 2 bins"),
        ({"kind": "continuous", "bins": 1}, "low < high and at least 2 bins"),
        ({"kind": "categorical"}, "needs the names of its categories"),
        ({"kind": "flag", "change": 1.0}, "only a dynamic continuous field"),
        ({"kind": "continuous", "static": True, "change": 1.0}, "only a dynamic continuous field"),
        ({"kind": "continuous", "change": 0.1, "change_bins": 4}, "change_bins must be odd"),
    ],
)
def test_a_field_that_makes_no_sense_is_refused(wrong: dict[str, Any], mend: str):
    with pytest.raises(ValueError, match=f"field 'x': .*{mend}"):
        Field(name="x", role="thing", **wrong)
