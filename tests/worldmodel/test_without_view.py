"""A state without places, such as a robot arm's: it is simulated, read and edited, and nothing is drawn of it."""

from __future__ import annotations

from dataclasses import replace
from math import pi

import pytest
import torch
import torch.nn.functional as F

from tokenizer.state_codec import StateCodec
from tokenizer.state_embedding import StateEmbedding
from tokenizer.state_schema import Entity, Field, StateSchema
from worldmodel.outcome import OutcomeReader, PlainOutcomeReader, outcome_reader
from worldmodel.upsampler import Upsampler, UpsamplerConfig

from .tiny_world import UNSTEERED, shaken, tiny_world

EPISODE = Entity(
    name="episode",
    fields=(Field(name="reward", kind="flag", role="reward"), Field(name="terminated", kind="flag", role="terminated")),
)
JOINTS = (
    Field(
        name="angles", kind="continuous", role="value", unit="rad", size=3, low=-pi, high=pi, bins=32, periodic=True,
        change=0.5, change_bins=17,
    ),
    Field(name="speeds", kind="continuous", role="rate", size=3, low=-2, high=2, bins=16, change=1, change_bins=9),
    Field(name="grip", kind="flag", role="value"),
)  # fmt: skip
PLACE = Field(
    name="place", kind="continuous", role="position", unit="m", size=3, low=-1, high=1, bins=32,
    change=0.2, change_bins=17,
)  # fmt: skip
SIZE = Field(name="size", kind="continuous", role="size", static=True, low=0.02, high=0.1, bins=4)
ARM = StateSchema(
    name="arm", frames_per_step=2, actions=("none", "on"), entities=(Entity(name="arm", fields=JOINTS), EPISODE)
)
HAND = replace(
    ARM,
    name="arm with a hand",
    entities=(*ARM.entities, *(Entity(name=name, fields=(PLACE, SIZE)) for name in ("hand", "cup"))),
)
SCHEMAS = pytest.mark.parametrize("schema", [ARM, HAND], ids=["joints", "places in space"])


@SCHEMAS
def test_a_world_without_a_view_plays(schema: StateSchema) -> None:
    world = tiny_world(schema)
    assert type(world.dynamics.state_painter) is StateEmbedding
    assert world.dynamics.scene_painter is None
    rollout = world.start(["a red ball rolls left", ""], seed=[1, 2])
    before = rollout.state
    rollout.edit({"arm": {"angles": (1.0, -1.0, 3.1)}})
    states = [rollout.step(1).state for _ in range(4)]
    assert torch.stack(states).isfinite().all()
    assert not torch.equal(states[0], before)
    assert states[-1].shape == (2, schema.num_values)


@SCHEMAS
def test_what_it_sees_is_read_and_encoded(schema: StateSchema) -> None:
    world = tiny_world(schema)
    frames = torch.randint(0, 256, (1, 5, 16, 16, 3), generator=torch.Generator().manual_seed(0)).byte()
    assert world.tokenizer.decode(world.tokenizer.encode(frames)).shape == frames.shape
    assert world.estimator is not None
    assert world.estimator.estimate(frames).isfinite().all()


@SCHEMAS
def test_an_edit_is_told_to_the_next_picture(schema: StateSchema) -> None:
    """Both when its ids are sampled and when they are decoded."""
    world = tiny_world(schema, show_values=True)
    assert world.tokenizer.schema == schema
    rollout = world.start(["", ""], seed=[1, 2])
    rollout.step(0)
    now = rollout.now.video_ids.unflatten(1, world.tokenizer.grid)
    edited = schema.write(rollout.state, {"arm": {"angles": (1.0, -1.0, 3.1)}})
    pictures = [world.engine.decode(now, rollout.pixels.fork(), state, state) for state in (rollout.state, edited)]
    assert not torch.equal(*pictures)
    nobody = torch.zeros(2, 1, dtype=torch.long)
    told = [
        world.dynamics.condition_frame(nobody, rollout.now.video_ids, state, rollout.state, 16)
        for state in (rollout.state, edited)
    ]
    assert not torch.equal(*told)


def test_an_upsampler_is_told_all_values_of_a_state_without_places() -> None:
    config = UpsamplerConfig(resolution=16, width=8, levels=2, depth=1, condition=16, shader_width=8)
    upsampler = shaken(Upsampler(config, ARM), 0.1).eval()
    assert upsampler.layer is None
    frames = torch.randint(0, 256, (1, 5, 16, 16, 3), generator=torch.Generator().manual_seed(0)).byte()
    states = torch.zeros(1, 3, ARM.num_values)
    large = upsampler(frames, states, 0)
    assert large.shape == (1, 5, 32, 32, 3)
    moved = ARM.write(states, {"arm": {"angles": (1.0, 2.0, 3.0)}})
    assert not torch.equal(upsampler(frames, moved, 0), large)


def test_zero_is_a_value_like_any_other_where_nothing_rests() -> None:
    codec, values = StateCodec(HAND), torch.zeros(1, HAND.num_values)
    values[:] = HAND.write(values, {"arm": {"speeds": (0.1, -0.1, 0)}, "hand": {"place": (0.99, 0, 0), "size": 0.1}})
    assert torch.equal(codec.settled(values), values)
    assert torch.equal(codec.legal(values, whole=True), values)  # no walls keep the hand away


def test_reward_is_read_from_plain_values() -> None:
    """A reward whenever the first joint is beyond 0.5 and the hand grips: held-out states are told apart."""
    torch.manual_seed(0)
    reader = outcome_reader(ARM, ARM.num_local_ids)
    assert isinstance(reader, PlainOutcomeReader)
    slot = next(i for i, s in enumerate(ARM.slots) if s.field.role == "reward")
    start, angle, grip = ARM.slots[slot].offset, ARM.columns("arm", "angles").start, ARM.columns("arm", "grip")
    optimizer = torch.optim.AdamW(reader.parameters(), 3e-3)

    def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
        states = torch.zeros(size, ARM.num_values)
        states[:, angle], states[:, grip] = torch.rand(size) * 3 - 1.5, torch.randint(2, (size, 1)).float()
        return states, (states[:, angle] > 0.5) & (states[:, grip.start] > 0.5)

    for _ in range(300):
        states, told = batch(256)
        loss = F.cross_entropy(reader(states, states)[:, reader.slots.index(slot)], start + told.long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    states, told = batch(2000)
    said = reader(states, states)[:, reader.slots.index(slot)].argmax(-1) - start
    assert (said == told.long()).float().mean() > 0.97


def test_nothing_reads_an_outcome_that_nothing_could_tell() -> None:
    assert outcome_reader(replace(ARM, entities=(EPISODE,)), 4) is None
    assert outcome_reader(replace(ARM, entities=ARM.entities[:1]), ARM.num_local_ids) is None
    assert outcome_reader(UNSTEERED, 1) is None
    reader = outcome_reader(HAND, HAND.num_local_ids)
    assert not isinstance(reader, OutcomeReader)
