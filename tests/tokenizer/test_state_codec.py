"""The state carried as a float: what is learned as ids leads to the value that was meant."""

from __future__ import annotations

from dataclasses import replace
from math import pi

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tokenizer.state_codec import ChangeTargets, StateCodec, change_centres, encode_values
from tokenizer.state_schema import Entity, Field, StateSchema

from ..worldmodel.tiny_world import PLANE, STATELESS
from .any_schema import bins, schemas, some_state

CODEC = StateCodec(PLANE)
BITS = StateSchema(
    name="bits", entities=(Entity(name="walls", fields=(Field(name="doors", kind="bits", role="value", size=19),)),)
)
seeds = st.integers(0, 2**31)


def legal_state(schema: StateSchema, seed: int, batch: int = 4) -> Tensor:
    """Values that ids can say: any change, but categories and flags that exist."""
    chance = torch.Generator().manual_seed(seed)
    values = torch.zeros(batch, schema.num_values)
    for entity in schema.entities:
        for f in entity.fields:
            drawn = torch.rand(batch, f.size, generator=chance)
            if f.kind == "continuous":
                drawn = f.low + drawn * (f.high - f.low)
            else:
                drawn = (drawn * (len(f.names) if f.kind == "categorical" else 2)).floor()
            values[:, schema.columns(entity.name, f.name)] = drawn
    return values


def near(previous: Tensor, seed: int, reach: float = 0.9) -> Tensor:
    """A next state whose changes stay within ``reach`` of the largest; statics and flags go their own way."""
    chance = torch.Generator().manual_seed(seed)
    noise = (2 * torch.rand(len(previous), len(CODEC.column), generator=chance) - 1) * reach
    state = CODEC.legal(CODEC.perturb(previous, noise), whole=True)
    for slot in PLANE.slots:
        if slot.field.change is None:
            state[:, slot.columns] = (torch.rand(state[:, slot.columns].shape, generator=chance) > 0.5).float()
    return state


def certain(targets: ChangeTargets, num_ids: int) -> Tensor:
    """Probabilities (B, S, ids) that are the targets themselves: a model that learned everything."""
    p = torch.zeros(*targets.low.shape, num_ids)
    p.scatter_add_(-1, targets.low[..., None], 1 - targets.weight[..., None])
    return p.scatter_add_(-1, targets.high[..., None], targets.weight[..., None])


def distance(a: Tensor, b: Tensor) -> Tensor:
    """Differences of states, the short way round where a field wraps."""
    gap = (a - b).abs()
    for entity in PLANE.entities:
        for f in entity.fields:
            if f.periodic:
                here = PLANE.columns(entity.name, f.name)
                gap[:, here] = torch.minimum(gap[:, here], f.high - f.low - gap[:, here])
    return gap


@settings(deadline=None, max_examples=40)
@given(schemas(), st.integers(0, 2**31))
def test_a_state_comes_back_within_half_a_bin(schema: StateSchema, seed: int):
    state = some_state(schema, seed=seed)
    blank = torch.full_like(state, float("nan"))
    codec = StateCodec(schema)
    decoded = codec.decode(codec.encode(state, "absolute"), "absolute", blank)
    decoded = codec.decode(codec.encode(state, "static"), "static", decoded)
    assert ((decoded - state).abs() <= bins(schema) / 2 * 1.001 + 1e-4).all()


@settings(deadline=None, max_examples=40)
@given(schemas(), st.integers(0, 2**31))
def test_ids_stay_in_their_slots_legal_ranges(schema: StateSchema, seed: int):
    state, previous = some_state(schema, seed=seed), some_state(schema, seed=seed + 1)
    for coding in ("static", "absolute", "change"):
        codec = StateCodec(schema)
        ids, legal = codec.encode(state, coding, previous), codec.legal_ranges(coding)
        assert ids.shape == (3, len(legal))
        assert ((legal[:, 0] <= ids) & (ids < legal[:, 1])).all()
        assert (legal[:, 1] <= schema.num_local_ids).all()


@settings(deadline=None, max_examples=40)
@given(schemas(), st.integers(0, 2**31))
def test_a_change_comes_back_finest_near_zero_and_stays_in_range(schema: StateSchema, seed: int):
    previous, state = some_state(schema, seed=seed), some_state(schema, seed=seed + 1)
    codec = StateCodec(schema)
    decoded = codec.decode(codec.encode(state, "change", previous), "change", previous)
    for slot in schema.slots:
        f, here = slot.field, slot.columns
        if f.change is None:
            continue
        assert (decoded[:, here] >= f.low - 1e-4).all()
        assert (decoded[:, here] <= f.high + 1e-4).all()
        asked = f.difference(state[:, here], previous[:, here])
        reach = torch.diff(change_centres(f)).max()
        got = f.difference(decoded[:, here], previous[:, here])
        wanted = asked.clamp(-f.change, f.change)
        missed = f.difference(got, wanted).abs()  # half a turn either way is the same place
        assert (missed <= reach * 1.001 + 1e-4).all() or f.kind == "bits"


@settings(deadline=None, max_examples=40)
@given(schemas())
def test_no_change_is_exactly_no_change(schema: StateSchema):
    state = some_state(schema)
    codec = StateCodec(schema)
    decoded = codec.decode(codec.encode(state, "change", state), "change", state)
    for slot in schema.slots:
        if slot.field.change is not None and not slot.field.periodic:
            assert torch.equal(decoded[:, slot.columns], state[:, slot.columns])


def test_change_bins_are_finest_near_zero():
    f = Field(name="x", kind="continuous", role="value", low=-1, high=1, bins=8, change=0.5, change_bins=65)
    centres = change_centres(f)
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
    codec = StateCodec(schema)
    decoded = codec.decode(codec.encode(after, "change", before), "change", before)
    assert decoded.item() == pytest.approx(-3.1, abs=0.01)
    assert encode_values(f, torch.tensor([pi + 0.1])) == encode_values(f, torch.tensor([0.1 - pi]))


def test_entities_of_one_specification_share_their_ids():
    f = Field(name="x", kind="continuous", role="position", low=0, high=1, bins=10)
    other = Field(name="x", kind="continuous", role="position", low=0, high=1, bins=11)
    two = StateSchema(name="s", entities=tuple(Entity(name=n, fields=(f,)) for n in "ab"))
    three = StateSchema(name="s", entities=(*two.entities, Entity(name="c", fields=(other,))))
    assert two.num_local_ids == 10
    assert three.num_local_ids == 21
    assert StateCodec(two).legal_ranges("absolute").tolist() == [[0, 10], [0, 10]]


@settings(deadline=None, max_examples=50)
@given(seeds)
def test_a_perfect_prediction_leads_to_the_exact_state(seed: int):
    previous = legal_state(PLANE, seed)
    state = near(previous, seed + 1)
    targets = CODEC.targets(state, previous)
    ids = CODEC.encode(state, "change", previous)
    assert (distance(CODEC.advance(previous, ids, certain(targets, PLANE.num_local_ids)), state) < 1e-5).all()


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_ids_are_legal(seed: int):
    previous = legal_state(PLANE, seed)
    state = near(previous, seed + 1, reach=3.0)  # also changes that saturate
    ids, legal = CODEC.encode(state, "change", previous), CODEC.legal_ranges("change")
    assert ((legal[:, 0] <= ids) & (ids < legal[:, 1])).all()


def test_exact_steps_do_not_drift():
    state = true = legal_state(PLANE, 3)
    for t in range(200):
        new = near(true, t, reach=0.2)
        targets = CODEC.targets(new, true)
        state = CODEC.advance(state, CODEC.encode(new, "change", true), certain(targets, PLANE.num_local_ids))
        true = new
    # The walls clamp both alike, so a difference could only come from the steps.
    assert (distance(state, true) < 1e-4).all()


def test_the_drawn_id_chooses_between_two_ways_and_its_neighbourhood_refines_it():
    slot = next(i for i, s in enumerate(PLANE.slots) if s.field.name == "position")
    f, first = PLANE.slots[slot].field, PLANE.slots[slot].offset + PLANE.slots[slot].field.num_absolute
    previous = legal_state(PLANE, 1)
    previous[:, PLANE.columns("player", "position")] = 0
    p = torch.zeros(4, len(PLANE.slots), PLANE.num_local_ids)
    for i in range(len(PLANE.slots)):
        p[:, i, CODEC.legal_ranges("change")[i, 0]] = 1
    p[:, slot] = 0
    p[:, slot, [first + 2, first + 3, first + 14]] = torch.tensor([0.3, 0.3, 0.4])
    ids = CODEC.legal_ranges("change")[:, 0].expand(4, -1).clone()
    centres = change_centres(f)
    for drawn, change in ((2, (centres[2] + centres[3]) / 2), (14, centres[14])):
        ids[:, slot] = first + drawn
        state = CODEC.advance(previous, ids, p)
        torch.testing.assert_close(state[:, PLANE.columns("player", "position").start], change.expand(4))


@settings(deadline=None, max_examples=30)
@given(seeds)
def test_what_moves_stays_in_its_range(seed: int):
    previous = legal_state(PLANE, seed)
    chance = torch.Generator().manual_seed(seed)
    legal = CODEC.legal_ranges("change")
    ids = torch.stack([torch.randint(a, b, (4,), generator=chance) for a, b in legal.tolist()], 1)
    p = torch.rand(4, len(PLANE.slots), PLANE.num_local_ids, generator=chance)
    state = CODEC.advance(previous, ids, p)
    for entity in PLANE.entities:
        for f in entity.fields:
            here = state[:, PLANE.columns(entity.name, f.name)]
            if f.static:
                assert torch.equal(here, previous[:, PLANE.columns(entity.name, f.name)])
            assert (here >= min(f.low, 0)).all()
            assert (here <= max(f.high, len(f.names))).all()


@pytest.mark.parametrize("change", [None, 1.0], ids=["as they are", "as flips"])
def test_bits_come_back(change: float | None):
    doors = replace(BITS.entities[0].fields[0], change=change)
    schema = replace(BITS, entities=(replace(BITS.entities[0], fields=(doors,)),))
    codec, previous, state = StateCodec(schema), legal_state(schema, 0), legal_state(schema, 1)
    ids = codec.encode(state, "change", previous)
    assert torch.equal(codec.decode(ids, "change", previous), state)
    assert torch.equal(codec.decode(codec.encode(state, "absolute"), "absolute", torch.zeros_like(state)), state)
    legal = codec.legal_ranges("change")
    assert ((ids >= legal[:, 0]) & (ids < legal[:, 1])).all()
    assert torch.equal(codec.advance(previous, ids, torch.zeros(4, 3, schema.num_local_ids)), state)
    if change:
        assert torch.equal(codec.encode(state, "change", state), legal[:, 0].expand(4, -1))  # what stays has one id


def test_a_world_without_state_has_nothing_to_carry():
    codec, nothing = StateCodec(STATELESS), torch.zeros(2, 0)
    ids = codec.encode(nothing, "change", nothing)
    assert ids.shape == (2, 0)
    assert codec.advance(nothing, ids, torch.zeros(2, 0, 1)).shape == (2, 0)


def test_what_is_half_a_bin_from_zero_is_at_rest():
    values = legal_state(PLANE, 1)
    columns = PLANE.columns("player", "position")
    bin_width = 1 / 32
    values[:, columns] = torch.tensor([bin_width / 2, -1.5 * bin_width])
    settled = CODEC.settled(values)
    torch.testing.assert_close(settled[0, columns], torch.tensor([bin_width / 2000, -1.5 * bin_width]))
    assert torch.equal(CODEC.encode(settled, "absolute"), CODEC.encode(values, "absolute"))
    turning = PLANE.columns("player", "yaw")  # an angle has no rest
    assert torch.equal(settled[:, turning], values[:, turning])


def test_a_body_stays_in_its_range_as_a_whole():
    values = legal_state(PLANE, 2)
    position, size = PLANE.columns("player", "position"), PLANE.columns("player", "size")
    values[:, size], values[:, position] = 0.08, torch.tensor([0.6, -0.45])
    torch.testing.assert_close(CODEC.legal(values, whole=True)[0, position], torch.tensor([0.42, -0.42]))
    torch.testing.assert_close(CODEC.legal(values)[0, position], torch.tensor([0.5, -0.45]))
