"""The state is read from pixels, id by id, and only what is legal is said."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tokenizer.state_codec import StateCodec
from tokenizer.state_schema import Entity, Field, StateSchema
from worldmodel.state_estimator import StateEstimator
from worldmodel.world import World

from .tiny_world import ESTIMATOR, PLANE, STATELESS, shaken, tiny_world, with_parts

PRESENT = Field(name="present", kind="flag", role="present", static=True)
CROWD = replace(  # whose bodies need not be there
    PLANE,
    entities=(
        *(Entity(name=e.name, fields=(PRESENT, *e.fields)) for e in PLANE.entities[:2]),
        PLANE.entities[2],
    ),
)


def estimator(schema: StateSchema = CROWD) -> StateEstimator:
    torch.manual_seed(0)
    return shaken(StateEstimator(ESTIMATOR, schema), 0.15).eval()


def noise(rows: int = 6, frames: int = 1 + PLANE.frames_per_step) -> Tensor:
    return torch.randint(0, 256, (rows, frames, 16, 16, 3), generator=torch.Generator().manual_seed(1)).byte()


@pytest.mark.parametrize("schema", [CROWD, PLANE], ids=["crowd", "plane"])
def test_what_is_said_with_kept_keys_is_the_likeliest_under_teacher_forcing(schema: StateSchema) -> None:
    network = estimator(schema)
    with torch.no_grad():
        ids, logits = network.say(noise())
        forced, _ = network(noise(), ids)
    torch.testing.assert_close(logits, forced, rtol=1e-4, atol=1e-4)
    assert ids.equal(forced.argmax(-1))
    assert len(ids.unique(dim=0)) > 1


def test_only_legal_ids_have_a_chance() -> None:
    network = estimator()
    with torch.no_grad():
        ids, logits = network.say(noise())
    count = len(CROWD.static_slots)
    legal = torch.cat([StateCodec(CROWD).legal_ranges("static"), StateCodec(CROWD).legal_ranges("absolute")])
    assert ((ids >= legal[:, 0]) & (ids < legal[:, 1])).all()
    for slot, (low, high) in enumerate(legal.tolist()):
        assert logits[:, slot, low:high].isfinite().all()
        assert logits[:, slot].isfinite().sum() == len(ids) * (high - low)
    states = network.estimate(noise())
    assert network.encode(states)[:, count:].shape == (6, len(CROWD.slots))


def test_later_ids_do_not_change_what_is_said_before() -> None:
    network = estimator()
    with torch.no_grad():
        ids, _ = network.say(noise())
        other = ids.clone()
        other[:, 9] = network.legal[9, 0] + (ids[:, 9] == network.legal[9, 0])
        before, after = network(noise(), ids)[0], network(noise(), other)[0]
    assert before[:, :10].equal(after[:, :10])
    assert not before[:, 10:].equal(after[:, 10:])


def test_of_an_absent_entity_nothing_is_said_and_nothing_told() -> None:
    network = estimator()
    there, gone = (
        CROWD.write(torch.zeros(1, CROWD.num_values), {"player": {"present": True}, "ball": {"present": present}})
        for present in (True, False)
    )
    assert not network.absent(network.encode(there)).any()
    silent = network.absent(network.encode(gone))[0]
    assert [slot.entity for slot, one in zip(network.slots, silent, strict=True) if one] == [1] * 5
    ids = network.encode(gone)
    changed = torch.where(network.absent(ids), network.legal[:, 1] - 1, ids)
    assert not changed.equal(ids)
    with torch.no_grad():
        assert network(noise(1), ids)[0].equal(network(noise(1), changed)[0])
        network.head.bias[network.slots[0].offset] += 1e3  # every body is said to be absent
    states = network.estimate(noise())
    absent = [CROWD.columns(e.name, f.name) for e in CROWD.entities[:2] for f in e.fields]
    assert all((states[:, columns] == 0).all() for columns in absent)


def test_a_few_frames_are_learned_and_read_back() -> None:
    network = estimator().train()
    states = torch.zeros(3, CROWD.num_values)
    wraps = [0.03, 1.48, 0.7]  # radians of a period of 1.5
    for row in range(3):
        about = {"present": row != 1, "colour": row, "position": (0.3 * row - 0.31, 0.12), "yaw": wraps[row]}
        states[row] = CROWD.write(states[row], {"player": {"present": True, "position": (0.2, -0.4)}, "ball": about})
    states[1, CROWD.columns("ball", "present").start + 1 : CROWD.columns("ball", "yaw").stop] = 0
    ids = network.encode(states)
    known = ~network.absent(ids)
    optimizer = torch.optim.Adam(network.parameters(), 1e-2)
    for _ in range(150):
        loss = torch.nn.functional.cross_entropy(network(noise(3), ids)[0][known], ids[known])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    read = network.eval().estimate(noise(3))
    for slot, there in zip(network.slots, known.unbind(1), strict=True):
        here, right = read[there, slot.columns], states[there, slot.columns]
        off = slot.field.difference(here, right).abs()
        most = 0.6 * (slot.field.high - slot.field.low) / slot.field.bins if slot.field.kind == "continuous" else 0.0
        assert (off <= most).all() or slot.field.role == "size"  # 0, below the least size that can be said
    assert not known.all()


def test_quantities_are_finer_than_bins_and_wrap_around() -> None:
    network = estimator(PLANE)
    for name, bins in (("position", 32), ("yaw", 8)):
        slot = next(s for s in network.slots if s.field.name == name)
        logits = torch.full((1, PLANE.num_local_ids), -torch.inf)
        logits[0, slot.offset : slot.offset + bins] = -30.0
        logits[0, [slot.offset, slot.offset + bins - 1]] = torch.tensor([0.6, 0.4]).log()
        value = network._quantity(slot, torch.tensor([slot.offset]), logits).item()
        field, width = slot.field, (slot.field.high - slot.field.low) / bins
        expected = field.low + (0.1 if field.periodic else 0.5) * width
        assert value == pytest.approx(expected, abs=1e-4)


def test_missing_frames_are_the_first_and_earlier_ones_do_not_count() -> None:
    network, frames = estimator(), noise(2, 5)
    assert network.estimate(frames).equal(network.estimate(frames[:, 2:]))
    assert network.estimate(frames[:, -1:]).equal(network.estimate(frames[:, -1:].expand(-1, 3, -1, -1, -1)))
    assert not network.estimate(frames).equal(network.estimate(frames[:, -1:]))


@pytest.mark.parametrize(
    ("frames", "mend"),
    [
        (torch.zeros(1, 5, 16, 16, 3), "frames are uint8, got torch.float32"),
        (
            torch.zeros(5, 16, 16, 3).byte(),
            r"are read from clips \(rows, frames, 16, 16, 3\), got shape \(5, 16, 16, 3\)",
        ),
        (torch.zeros(1, 0, 16, 16, 3).byte(), "got shape"),
        (torch.zeros(1, 5, 32, 32, 3).byte(), "resize the frames to 16x16 first"),
    ],
)
def test_wrong_frames_are_refused_with_the_mend(frames: Tensor, mend: str) -> None:
    with pytest.raises(ValueError, match=mend):
        estimator().estimate(frames)


def test_a_schema_without_state_and_a_size_without_cells_are_refused() -> None:
    with pytest.raises(ValueError, match="'film' has no scene state to estimate"):
        StateEstimator(ESTIMATOR, STATELESS)
    with pytest.raises(ValueError, match="resolution 20 is not a multiple of the cell of 8 pixels"):
        replace(ESTIMATOR, resolution=20)


# -- in a world -------------------------------------------------------------------------------------


def test_a_world_begins_from_what_its_estimator_reads(tmp_path: Path) -> None:
    whole = tiny_world(PLANE)
    world = with_parts(whole, estimator=None)
    for begin in (world.estimate, lambda frames: world.start(frames=frames)):
        with pytest.raises(ValueError, match="has no state estimator: train one"):
            begin(noise())
    given = torch.zeros(6, PLANE.num_values)
    assert torch.equal(world.start(frames=noise(), state=given).state, given)
    world = with_parts(whole, estimator=estimator(PLANE))
    rollout = world.start(frames=noise())
    torch.testing.assert_close(rollout.state, world.estimate(noise()))
    torch.testing.assert_close(world.estimate(noise()[0]), rollout.state[:1])
    world.save_pretrained(tmp_path)
    again = World.from_pretrained(tmp_path, device="cpu")
    assert again.estimate(noise()).equal(world.estimate(noise()))
    (tmp_path / "estimator.safetensors").unlink()
    with pytest.raises(ValueError, match=r"estimator\.safetensors is missing"):
        World.from_pretrained(tmp_path)


def test_an_estimator_of_another_world_is_refused() -> None:
    world = tiny_world(PLANE)
    parts = {"schema": PLANE, "text": world.text, "tokenizer": world.tokenizer, "dynamics": world.dynamics}
    for other in (estimator(CROWD), StateEstimator(replace(ESTIMATOR, resolution=32), PLANE)):
        with pytest.raises(ValueError, match="this world shows something else: export one that was trained on the"):
            World(**parts, estimator=other)


@pytest.mark.parametrize("size", [(96, 64), (64, 112), (128, 72)], ids=lambda size: "x".join(map(str, size)))
def test_pictures_of_any_size_are_read(size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    network = shaken(StateEstimator(replace(ESTIMATOR, resolution=list(size)), PLANE), 0.15).eval()
    frames = torch.randint(0, 256, (2, 3, *size, 3), generator=torch.Generator().manual_seed(1)).byte()
    assert network.see(frames).shape == (2, size[0] // 8 * (size[1] // 8), ESTIMATOR.width)
    assert network.estimate(frames).shape == (2, PLANE.num_values)
    ids, logits = network.say(frames)
    torch.testing.assert_close(network(frames, ids)[0], logits, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match=f"resize the frames to {size[0]}x{size[1]} first"):
        network.estimate(frames.transpose(2, 3))
