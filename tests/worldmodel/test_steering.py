"""What a rollout is made to keep to: fields held or limited, regions of the picture locked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tokenizer.state_codec import StateCodec
from tokenizer.state_schema import Entity, Field
from worldmodel.beginning import Beginning
from worldmodel.rollout import Rollout
from worldmodel.storage import BUNDLED
from worldmodel.upsampler import Upsampler, UpsamplerConfig
from worldmodel.world import World

from .engines.test_engines import assert_same, fast
from .tiny_world import LIVELY, PLANE, STATELESS, shaken, tiny_world, with_parts

WORLD = tiny_world()
# What PLANE lacks: a choice, quantities that are not written as changes, bits that flip.
WEATHER = Entity(
    name="weather",
    fields=(
        Field(name="sky", kind="categorical", role="value", names=("clear", "cloudy", "rain")),
        Field(name="heat", kind="continuous", role="value", low=-10, high=30, bins=20),
        Field(name="wind", kind="continuous", role="value", low=0, high=6, bins=24, periodic=True),
        Field(name="lamps", kind="bits", role="value", size=11, change=1),
    ),
)
VARIED = replace(PLANE, entities=(*PLANE.entities, WEATHER))
BOX = {"player": {"position": ((-0.2, -0.1), (0.2, 0.3))}, "ball": {"yaw": (1.2, 0.3)}}  # the arc goes over 1.5 = 0
CORNER = torch.zeros(4, 4, dtype=torch.bool)
CORNER[:2, 2:] = True
CORNER_PIXELS = CORNER.repeat_interleave(4, 0).repeat_interleave(4, 1)


def play(rollout: Rollout, steps: int = 20) -> list[Any]:
    return [rollout.step(t % 3) for t in range(steps)]


def value(state: Tensor, entity: str, field: str, schema: Any = PLANE) -> Tensor:
    return state[..., schema.columns(entity, field)]


def on_arc(angle: Tensor, low: float, high: float, period: float) -> Tensor:
    """Whether angles lie on the arc that goes up from low to high, but for rounding."""
    return ((angle - low + 1e-5) % period) <= (high - low) % period + 2e-5


def assert_same_steps(ours: list[Any], theirs: list[Any], row: int = 0) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert torch.equal(a.frames[row], b.frames[row])
        assert torch.equal(a.state[row], b.state[row])


# -- holds ------------------------------------------------------------------------------------------


def test_a_held_field_keeps_its_value_and_the_rest_goes_on():
    rollout = WORLD.start(["", ""], seed=3, state={"player": {"yaw": 1.45}})
    rollout.hold({"player": {"yaw": 0.07}, "episode": {"reward": True, "doors": (1, 0, 1)}})
    first = PLANE.slots[2].offset + PLANE.slots[2].field.num_absolute
    before = rollout.state
    for t in range(20):
        step = rollout.step(t % 3)
        assert (value(step.state, "player", "yaw") == torch.tensor(0.07)).all()
        assert (step.reward == 1).all()
        assert (value(step.state, "episode", "doors") == torch.tensor([1.0, 0, 1])).all()
        assert (value(step.state, "player", "position") != value(before, "player", "position")).any(1).all()
        # Across the wrap it turned on by 0.12, to which the change of id 7 is the nearest; then it stood still.
        assert (rollout.now.state_ids[:, 2] - first == (7 if t == 0 else 4)).all()
        before = step.state


def test_a_held_value_that_no_change_reaches_is_there_at_once_and_the_ids_say_the_nearest():
    rollout = WORLD.start(seed=3, state={"player": {"position": (-0.5, 0.4)}})
    rollout.hold({"player": {"position": (0.5, 0.0)}})
    step = rollout.step(0)
    assert value(step.state, "player", "position").tolist() == [[0.5, 0.0]]
    first = PLANE.slots[0].offset + PLANE.slots[0].field.num_absolute
    assert (rollout.now.state_ids[0, :2] - first).tolist() == [16, 0]  # the largest changes
    rollout.edit({"player": {"position": (0.4, 0.0)}})
    assert value(rollout.step(0).state, "player", "position").tolist() == [[0.5, 0.0]]


@pytest.mark.parametrize("k", [16, 4])
def test_pictures_show_what_is_held(k: int):
    calm, held = (WORLD.start(seed=3, sampling=replace(LIVELY, tokens_per_pass=k)) for _ in range(2))
    shown: list[Tensor] = []
    decode = WORLD.engine.decode
    held.hold({"ball": {"position": (0.3, 0.3)}})
    try:
        WORLD.engine.decode = lambda *given: shown.append(given[2]) or decode(*given)  # pyright: ignore
        step = held.step(0)
    finally:
        del WORLD.engine.decode
    assert torch.equal(shown[0], step.state)
    assert not torch.equal(step.frames, calm.step(0).frames)


def test_every_kind_of_field_can_be_held():
    rollout = tiny_world(VARIED).start(["", ""], seed=1)
    lamps = tuple(i % 2 == 0 for i in range(11))
    wished = {"sky": "rain", "heat": 7.3, "wind": 5.95, "lamps": lamps}
    rollout.hold({"weather": wished}, row=1)
    for step in play(rollout, 6):
        scene = VARIED.to_dict(step.state[1])["weather"]
        assert scene == {**wished, "heat": pytest.approx(7.3), "wind": pytest.approx(5.95)}
        said = StateCodec(VARIED).decode(rollout.now.state_ids, "absolute", step.state)[1]  # of absolute ids
        assert abs(value(said, "weather", "heat", VARIED) - 7.3) <= 1
        assert abs(value(said, "weather", "wind", VARIED) - 5.95) <= 0.125
        assert VARIED.to_dict(step.state[0])["weather"] != scene


def test_released_fields_go_on():
    released, calm = (WORLD.start(["", ""], seed=3) for _ in range(2))
    released.hold({"player": {"yaw": 0.5}})
    released.limit(BOX)
    released.release()
    assert_same_steps(play(released, 4), play(calm, 4))
    released.hold({"player": {"yaw": 0.5}, "ball": {"yaw": 0.5}, "episode": {"reward": True}}, row=0)
    released.release({"player": ["yaw"], "ball": "yaw"})
    released.release(row=1)
    steps = play(released, 3)
    assert len({float(value(step.state, "player", "yaw")[0]) for step in steps}) == 3
    assert all(bool(step.reward[0]) for step in steps)


# -- events -----------------------------------------------------------------------------------------


def test_what_is_told_reaches_the_next_step_alone():
    told, untold = (WORLD.start(seed=[3, 4]) for _ in range(2))
    told.tell("rolls", row=0)
    ours, theirs = told.step(1), untold.step(1)
    assert not torch.equal(ours.state[0], theirs.state[0])
    assert torch.equal(ours.state[1], theirs.state[1])
    assert not told.cache.header_seen[:, WORLD.dynamics.layout.scene_end :].any()
    told.edit(WORLD.schema.to_dict(theirs.state[0]), row=0)  # writes the header anew, without what was told
    assert not told.cache.header_seen[:, WORLD.dynamics.layout.scene_end :].any()


def test_what_is_told_waits_for_the_step_whatever_happens_before():
    rollout = WORLD.start(seed=3)
    rollout.tell("rolls")
    twin, mark = rollout.fork(), rollout.snapshot()
    once = play(rollout, 3)
    assert_same_steps(once, play(twin, 3))
    rollout.restore(mark)
    rollout.edit({"ball": {"colour": "blue"}})
    assert rollout.cache.header_seen[:, WORLD.dynamics.layout.header_event].any()
    rollout.restore(mark)
    rollout.tell("")
    assert_same_steps(play(rollout, 3), play(WORLD.start(seed=3), 3))
    rollout.restore(mark)
    rollout.reset_rows([0], [Beginning(seed=3)])
    assert not rollout.cache.header_seen[:, WORLD.dynamics.layout.header_event].any()


def test_a_world_of_captions_alone_can_be_told_nothing():
    with pytest.raises(ValueError, match="can be told nothing in mid-stream: edit its state"):
        tiny_world(max_event=0).start(seed=1).tell("rolls")


@pytest.mark.usefixtures("_graphs")
@pytest.mark.slow
def test_openvino_is_told_too():
    rollouts = [world.start(seed=3, sampling=LIVELY) for world in (WORLD, fast(WORLD))]
    for rollout in rollouts:
        rollout.step(0)
        rollout.tell("rolls")
    assert_same(*rollouts, steps=4)


# -- limits -----------------------------------------------------------------------------------------


def test_states_stay_within_limits_and_ids_say_so():
    rollout = WORLD.start(["", "", ""], seed=3)
    rollout.limit(BOX, row=1)
    rollout.limit({"player": {"position": ((0.1, 0.1), (0.15, 0.15))}}, row=2)
    low, high = rollout.now.steering.limits[:, :, 0], rollout.now.steering.limits[:, :, 1]
    free, stopped = [], 0
    for t in range(20):
        before = rollout.state
        step = rollout.step(t % 3)
        for row, low_at, high_at in ((1, (-0.2, -0.1), (0.2, 0.3)), (2, (0.1, 0.1), (0.15, 0.15))):
            at = value(step.state[row], "player", "position")
            assert (torch.tensor(low_at) <= at).all()
            assert (at <= torch.tensor(high_at)).all()
        assert on_arc(value(step.state[1], "ball", "yaw"), 1.2, 0.3, 1.5)
        at_end = ((step.state == low) | (step.state == high))[:, [slot.columns.start for slot in PLANE.slots]]
        said = StateCodec(PLANE).encode(step.state, "change", before)
        assert ((rollout.now.state_ids - said)[at_end].abs() <= 1).all()
        stopped += int(at_end.sum())
        free.append(value(step.state[0], "player", "position"))
    assert stopped > 20
    assert (torch.stack(free) - 0.125).abs().max() > 0.3


def test_quantities_in_absolute_bins_can_be_limited_too():
    rollout = tiny_world(VARIED).start(seed=1)
    rollout.limit({"weather": {"heat": (3, 8), "wind": (5.5, 0.5)}})
    heats = [value(step.state, "weather", "heat", VARIED).item() for step in play(rollout)]
    assert 3 <= min(heats) < max(heats) <= 8
    assert on_arc(value(rollout.state, "weather", "wind", VARIED), 5.5, 0.5, 6).all()


def test_all_of_a_circle_or_of_a_range_limits_nothing():
    calm, limited = (WORLD.start(seed=3) for _ in range(2))
    limited.limit({"player": {"yaw": (0.2, 1.7), "position": ((-0.5, -0.5), (0.5, 0.5))}, "ball": {"yaw": (0, 1.5)}})
    assert_same_steps(play(limited), play(calm))


def test_other_rows_are_undisturbed_to_the_bit():
    calm, steered = (WORLD.start(["a red ball", "", ""], seed=3) for _ in range(2))
    for rollout in (calm, steered):
        play(rollout, 4)
    steered.hold({"ball": {"position": (0.1, 0.2)}, "episode": {"terminated": False}}, row=0)
    steered.limit(BOX, row=2)
    steered.lock(CORNER, row=2)
    ours, theirs = play(steered), play(calm)
    assert_same_steps(ours, theirs, row=1)
    assert not torch.equal(ours[-1].state[0], theirs[-1].state[0])
    assert not torch.equal(ours[-1].state[2], theirs[-1].state[2])


def test_what_lies_outside_is_brought_to_the_nearer_end_also_around_a_circle():
    limiter, yaw = WORLD.parts.limiter, PLANE.columns("ball", "yaw")
    free = limiter.free(1, PLANE.num_values)
    for ends, given, kept in (
        ((1.2, 0.3), (1.3, 0.0, 1.49, 0.3, 0.4, 0.74, 0.76, 1.1), (1.3, 0.0, 1.49, 0.3, 0.3, 0.3, 1.2, 1.2)),
        ((0.3, 1.2), (0.7, 0.29, 0.01, 1.4, 1.49, 1.3), (0.7, 0.3, 0.3, 1.2, 1.2, 1.2)),
    ):
        states = torch.zeros(len(given), PLANE.num_values)
        states[:, yaw] = torch.tensor(given)[:, None]
        states[:, 0] = 2
        limits = limiter.limit(free, {"ball": {"yaw": ends}}).expand(len(given), -1, -1)
        expected = states.clone()
        expected[:, yaw] = torch.tensor(kept)[:, None]
        assert torch.equal(limiter.keep(states, limits), expected)


# -- locks ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("k", [16, 4])
@pytest.mark.parametrize("pixels", [False, True])
def test_a_locked_region_keeps_its_ids_and_pixels_while_the_rest_changes(k: int, pixels: bool):
    rollout = WORLD.start(["", ""], seed=3, sampling=replace(LIVELY, tokens_per_pass=k))
    play(rollout, 3)
    touched = torch.zeros(16, 16, dtype=torch.bool)
    touched[[0, 4, 0, 7], [8, 15, 12, 8]] = True  # one pixel of each of its cells
    rollout.lock(touched.numpy() if pixels else CORNER, row=1)
    ids, picture = rollout.now.video_ids.clone(), rollout.frames[:, -1].clone()
    locked, changed = CORNER.flatten(), torch.zeros(16, dtype=torch.bool)
    for step in play(rollout, 12):
        assert torch.equal(rollout.now.video_ids[1, locked], ids[1, locked])
        assert (step.frames[1, :, CORNER_PIXELS] == picture[1, CORNER_PIXELS]).all()
        assert (step.frames[1, :, ~CORNER_PIXELS] != picture[1, ~CORNER_PIXELS]).any()
        assert (step.frames[0, :, CORNER_PIXELS] != picture[0, CORNER_PIXELS]).any()
        changed |= rollout.now.video_ids[1] != ids[1]
    assert changed.sum() > 8
    rollout.lock(~CORNER, row=1)
    whole = rollout.frames[1, -1].clone()
    assert (rollout.step(0).frames[1] == whole).all()
    rollout.unlock(row=1)
    assert not rollout.now.steering.active
    assert (rollout.step(0).frames[1, :, CORNER_PIXELS] != whole[CORNER_PIXELS]).any()


def test_upsampled_pictures_are_locked_as_well():
    config = UpsamplerConfig(resolution=16, width=16, levels=2, depth=1, condition=16)
    world = with_parts(tiny_world(), upsampler=shaken(Upsampler(config, PLANE), 0.05))
    large = CORNER_PIXELS.repeat_interleave(2, 0).repeat_interleave(2, 1)
    rollout = world.start(["", ""], seed=3, upsample=True)
    rollout.lock(CORNER, row=0)  # before anything was upsampled
    first = play(rollout, 2)
    rollout.lock(CORNER, row=1)
    for step in play(rollout, 3):
        for row, before in ((0, first[0].upsampled[:, 0]), (1, first[1].upsampled[:, -1])):
            assert (step.upsampled[row, :, large] == before[row, large]).all()
            assert (step.upsampled[row, :, ~large] != before[row, ~large]).any()
    rollout.reset_rows([1], [Beginning(seed=5)])
    rollout.lock(CORNER, row=1)
    enlarged = rollout.enlarged(rollout.frames[1, -1:])
    shown = rollout.step(0).upsampled
    assert shown is not None
    assert (shown[1, :, large] == enlarged[0, large]).all()


def test_a_world_without_a_state_can_be_locked():
    rollout = tiny_world(STATELESS).start(seed=3)
    rollout.lock(CORNER)
    picture = rollout.frames[0, -1].clone()
    for step in play(rollout, 5):
        assert (step.frames[0, :, CORNER_PIXELS] == picture[CORNER_PIXELS]).all()


# -- copies, rows, engines --------------------------------------------------------------------------


def steer(rollout: Rollout) -> None:
    rollout.hold({"player": {"yaw": 0.3}})
    rollout.limit(BOX, row=1)
    rollout.lock(CORNER, row=0)


def test_snapshots_and_forks_hold_what_was_held():
    rollout = WORLD.start(["", ""], seed=3)
    play(rollout, 3)
    free = rollout.snapshot()
    steer(rollout)
    mark, fork = rollout.snapshot(), rollout.fork()
    first = play(rollout, 5)
    rollout.release()
    rollout.unlock()
    unsteered = play(rollout, 5)
    rollout.restore(mark)
    again = play(rollout, 5)
    fork.lock(~CORNER, row=0)  # of the fork alone
    rollout.restore(mark)
    for row in range(2):
        assert_same_steps(first, again, row)
        assert_same_steps(first, play(rollout.fork(), 5), row)
        assert not torch.equal(first[-1].state[row], unsteered[-1].state[row])
    assert (fork.step(0).frames[0] == fork.frames[0, -1]).all()
    rollout.restore(free)
    assert not rollout.now.steering.active


def test_a_row_that_is_reset_is_free_again():
    rollout, alone = WORLD.start(["", "", ""], seed=3), WORLD.start(seed=41)
    steer(rollout)
    rollout.reset_rows([1], [Beginning(seed=41)])
    for t in range(8):
        step, fresh = rollout.step(t % 3), alone.step(t % 3)
        torch.testing.assert_close(step.state[1], fresh.state[0], atol=1e-5, rtol=0)
        assert (value(step.state[[0, 2]], "player", "yaw") == torch.tensor(0.3)).all()
    rollout.reset_rows([0, 2], [Beginning(seed=1), Beginning(seed=2)])
    assert not rollout.now.steering.active


def test_a_beginning_may_be_held_and_limited_from_its_first_state_on():
    rollout = WORLD.start(["", ""], seed=3)
    held = Beginning(seed=4, hold={"player": {"yaw": 0.3}}, limit={"ball": {"position": ((0.3, 0.3), (0.4, 0.4))}})
    rollout.reset_rows([1], [held])
    for state in (rollout.state, *(step.state for step in play(rollout, 4))):
        assert value(state[1], "player", "yaw") == torch.tensor(0.3)
        assert (value(state[1], "ball", "position") - 0.35).abs().max() < 0.0501
    with pytest.raises(ValueError, match="colour never changes"):
        rollout.reset_rows([0, 1], [Beginning(), Beginning(hold={"ball": {"colour": "red"}})])
    assert value(rollout.step(0).state[1], "player", "yaw") == torch.tensor(0.3)


@pytest.fixture
def _graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def assert_engines_agree(world: World, k: int, steer: Callable[[Rollout], None]) -> None:
    sampling = replace(LIVELY, tokens_per_pass=k)
    ours, theirs = (each.start(["a red ball", ""], seed=3, sampling=sampling) for each in (world, fast(world)))
    for each in (ours, theirs):
        steer(each)
    assert_same(ours, theirs, steps=6)
    for each in (ours, theirs):
        each.release(row=0)
        each.unlock()
    assert_same(ours, theirs, steps=3)


@pytest.mark.usefixtures("_graphs")
@pytest.mark.slow
@pytest.mark.parametrize("k", [16, 4])
def test_openvino_steers_as_torch_does(k: int):
    assert_engines_agree(WORLD, k, steer)


@pytest.mark.slow
@pytest.mark.usefixtures("_graphs")
def test_openvino_steers_every_kind_of_field_and_worlds_without_a_state():
    def hold(rollout: Rollout) -> None:
        lamps = [i % 3 == 0 for i in range(11)]
        rollout.hold({"weather": {"sky": "rain", "heat": 7.3, "lamps": lamps}, "episode": {"reward": 1}}, row=1)
        rollout.limit({"weather": {"wind": (5.5, 0.5)}})

    assert_engines_agree(tiny_world(VARIED), 16, hold)
    assert_engines_agree(tiny_world(STATELESS), 16, lambda rollout: rollout.lock(CORNER, row=1))


# -- mistakes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("verb", "given", "mend"),
    [
        ("hold", {"player": {"colour": "red"}}, "player.colour never changes, so there is nothing to hold: use edit"),
        ("limit", {"ball": {"size": (0.05, 0.1)}}, "ball.size never changes"),
        ("release", {"ball": ["size"]}, "ball.size never changes"),
        ("hold", {"moon": {"yaw": 1}}, "no entity 'moon' in 'plane'; it has player, ball, episode"),
        ("hold", {"ball": {"mass": 1}}, "'ball' has no field 'mass'; it has colour, size, position, yaw"),
        ("release", {"ball": "mass"}, "'ball' has no field 'mass'"),
        ("hold", {"ball": 0.3}, "name the fields of 'ball', as in"),
        ("hold", {"ball": {"position": (0.1, 3)}}, r"ball.position = 3 is outside \[-0.5, 0.5\] m"),
        ("hold", {"ball": {"position": 0.1}}, r"ball.position has 2 component\(s\), got 1"),
        ("limit", {"ball": {"position": ((0.1, 0.1), (0.3, 3))}}, "ball.position = 3 is outside"),
        ("limit", {"ball": {"position": (0.1, 0.3)}}, r"ball.position has 2 component\(s\), got 1"),
        ("limit", {"ball": {"position": 0.3}}, r"limits of ball.position are a pair \(low, high\), got 0.3"),
        ("limit", {"ball": {"yaw": (0.3, 0.4, 0.5)}}, "limits of ball.yaw are a pair"),
        ("limit", {"ball": {"position": ((0.1, 0.2), (0.2, 0.1))}}, r"low \(0.1, 0.2\) is above high \(0.2, 0.1\)"),
        ("limit", {"episode": {"reward": (0, 1)}}, "episode.reward is no quantity that could be limited: hold it"),
        ("tell", "far too much to be told", r"the event takes \d+ tokens and this world reads 4: shorten it to about"),
        ("lock", torch.ones(4, 4), r"bool mask, \(4, 4\) of cells or \(16, 16\) of pixels, got torch.float32 \(4, 4\)"),
        ("lock", np.ones((8, 8), dtype=bool), r"got torch.bool \(8, 8\)"),
    ],
)
def test_mistakes_are_answered_with_the_mend_and_change_nothing(verb: str, given: Any, mend: str):
    rollout = WORLD.start(["", ""], seed=1)
    with pytest.raises(ValueError, match=mend):
        getattr(rollout, verb)(given)
    assert not rollout.now.steering.active
    with pytest.raises(ValueError, match="row 2 does not exist: this rollout has rows 0 to 1"):
        getattr(rollout, verb)(given, row=2)


# -- the bundled world ------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(not (BUNDLED / "tabletop" / "world.json").is_file(), reason="no bundled world")
def test_a_held_light_stays_on_the_table_and_pictures_show_it():
    world = World.from_pretrained("tabletop", device="cpu")
    free, held = (world.start("a red rubber ball", seed=7, batch=2) for _ in range(2))
    held.hold({"light": {"angle": 3.1}}, row=1)  # next to the wrap
    for _ in range(20):
        ours, theirs = held.step("east"), free.step("east")
        assert (value(ours.state[1], "light", "angle", world.schema) == torch.tensor(3.1)).all()
    assert torch.equal(ours.frames[0], theirs.frames[0])
    assert (ours.frames[1].float() - theirs.frames[1]).abs().mean() > 2
