"""Streaming for ever is exactly what was trained: the cached step by step equals the whole, teacher-forced pass."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tokenizer.state_codec import StateCodec
from tokenizer.state_schema import StateSchema
from worldmodel import beginning as beginning_file
from worldmodel.beginning import Beginning
from worldmodel.engines import torch_engine as engine_file
from worldmodel.kv_cache import KeysValues, StepCache
from worldmodel.rollout import Rollout
from worldmodel.sampling import Sampling, sample
from worldmodel.transformer import DynamicsBatch
from worldmodel.world import World

from .tiny_world import LIVELY, PLANE, STATELESS, UNSTEERED, tiny_world

WORLD = tiny_world()
OUTCOME = [i for i, slot in enumerate(WORLD.schema.slots) if slot.field.role in ("reward", "terminated")]
STEPS = 14  # the window of 3 wraps four times, both anchors are used
CAPTIONS = ["a red ball", ""]
TOLD, EVENT = 5, "rolls"  # to the first row, before this step


def lively(k: int, state_k: int | None = None) -> Sampling:
    return replace(LIVELY, tokens_per_pass=k, state_tokens_per_pass=state_k)


@dataclass
class Played:
    """What a rollout said and what it was fed, one entry a step, the beginning first."""

    rollout: Rollout
    logits: list[Tensor]  # as ``sample`` was given them, in order
    actions: list[Tensor] = field(default_factory=list)
    state_ids: list[Tensor] = field(default_factory=list)
    states: list[Tensor] = field(default_factory=list)
    input_states: list[Tensor] = field(default_factory=list)
    video: list[Tensor] = field(default_factory=list)

    def note(self, action: Tensor, before: Tensor) -> None:
        state_ids, states, video = self.rollout.now.state_ids, self.rollout.state, self.rollout.now.video_ids
        for kept, new in zip(
            (self.actions, self.state_ids, self.states, self.input_states, self.video),
            (action, state_ids, states, before, video),
        ):
            kept.append(new.clone())

    def batch(self) -> DynamicsBatch:
        """The same as teacher forcing takes it."""
        world, video = self.rollout.parts, torch.stack(self.video, 1)
        return DynamicsBatch(
            text=world.encode_captions(self.rollout.captions),
            static=StateCodec(world.schema).encode(self.states[0], "static"),
            actions=torch.stack(self.actions, 1),
            state_ids=torch.stack(self.state_ids, 1),
            states=torch.stack(self.states, 1),
            input_states=torch.stack(self.input_states, 1),
            video=video,
            input_video=video,
            event=world.encode_events([EVENT, ""]),
            event_block=torch.tensor([TOLD, -1]),
        )


def play(
    monkeypatch: pytest.MonkeyPatch,
    world: World,
    k: int,
    steps: int = STEPS,
    edits: Mapping[int, Mapping[str, Mapping[str, Any]]] | None = None,
    state_k: int | None = None,
) -> Played:
    """A rollout of two rows with every logit that it sampled from."""
    logits: list[Tensor] = []

    def recording(given: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        logits.append(given.clone())
        return sample(given, *rest)

    for file in (engine_file, beginning_file):
        monkeypatch.setattr(file, "sample", recording)
    rollout = world.start(CAPTIONS, seed=3, sampling=lively(k, state_k))
    played = Played(rollout, logits)
    nobody = torch.full((2, 1), -1)
    played.note(nobody, rollout.state)
    for t in range(1, steps):
        if edits and t in edits:
            rollout.edit(edits[t])
        if t == TOLD:
            rollout.tell(EVENT, row=0)
        before = rollout.state
        action = torch.tensor([t % 3, (t + 1) % 3]) if world.actions else None
        rollout.step(action)
        played.note(nobody if action is None else action[:, None], before)
    monkeypatch.undo()
    return played


def difference(ours: Tensor, theirs: Tensor) -> float:
    """Largest difference of the logits that are not ruled out, which must be the same ones."""
    assert torch.equal(ours.isfinite(), theirs.isfinite())
    legal = ours.isfinite()
    return float((ours - theirs)[legal].abs().max()) if legal.any() else 0.0


def split(played: Played, k: int) -> tuple[list[Tensor], list[Tensor], list[Tensor], list[Tensor]]:
    """Recorded logits as (static slots, first state's slots, later states, video of each step)."""
    layout, outcome = played.rollout.parts.dynamics.layout, played.rollout.parts.dynamics.outcome
    rest = iter(played.logits)
    static = [next(rest)[:, 0] for _ in range(layout.num_static)]
    first = [next(rest)[:, 0] for _ in range(layout.num_state)]
    states, video = [], []
    for t in range(len(played.video)):
        if t and layout.num_state:
            passes = -(-layout.num_state // (played.rollout.sampling.state_tokens_per_pass or layout.num_state))
            states.append(torch.cat([next(rest) for _ in range(passes)], 1))
            if outcome is not None:
                states[-1][:, outcome.slots] = next(rest)
        settled = torch.cat([next(rest) for _ in range(layout.num_video // k)], 1)
        video.append(settled[:, layout.cell_order(k).argsort()])
    assert next(rest, None) is None
    return static, first, states, video


@pytest.mark.parametrize("state_k", [9, 4, 1])  # four does not divide nine: the last pass is the shorter
def test_states_in_several_passes_equal_the_whole_forward_too(monkeypatch, state_k: int):
    world = tiny_world(state_tokens_per_pass=(9, 4, 1))
    played = play(monkeypatch, world, 16, state_k=state_k)
    _, _, states, video = split(played, 16)
    with torch.no_grad():
        whole, other = (world.dynamics(played.batch(), 16, state_k=k) for k in (state_k, {9: 4, 4: 1, 1: 9}[state_k]))
    assert max(difference(logits, whole.state[:, t + 1]) for t, logits in enumerate(states)) <= 1e-5
    assert max(difference(logits, whole.video[:, t]) for t, logits in enumerate(video)) <= 1e-5
    assert max(difference(logits, other.state[:, t + 1]) for t, logits in enumerate(states)) > 1e-3


@pytest.mark.parametrize("schema", [PLANE, STATELESS])
def test_of_two_passes_the_first_settles_every_other_cell(monkeypatch, schema: StateSchema):
    world = tiny_world(schema, tokens_per_pass=(16, 8))
    assert world.dynamics.layout.cell_order(8)[:8].tolist() == [0, 2, 5, 7, 8, 10, 13, 15]
    video = split(played := play(monkeypatch, world, 8), 8)[-1]
    with torch.no_grad():
        whole, other = (world.dynamics(played.batch(), k).video for k in (8, 16))
    assert max(difference(logits, whole[:, t]) for t, logits in enumerate(video)) <= 1e-5
    assert max(difference(logits, other[:, t]) for t, logits in enumerate(video)) > 1e-3


@pytest.mark.parametrize("k", [16, 4, 1])
@pytest.mark.parametrize(
    "world",
    [
        WORLD,
        tiny_world(state_sees_video=True),
        tiny_world(STATELESS),
        tiny_world(UNSTEERED),
        tiny_world(anchor_frames=0),
        tiny_world(STATELESS, nearby_width=12, nearby_blocks=1),
        tiny_world(STATELESS, memory=7),
        tiny_world(memory=5),
    ],
    ids=[
        "plane",
        "state sees video",
        "no state",
        "no state, no actions",
        "no anchors",
        "nearby cells",
        "long memory",
        "long memory of states",
    ],
)
def test_cached_streaming_equals_the_whole_forward(monkeypatch, world: World, k: int):
    played = play(monkeypatch, world, k)
    with torch.no_grad():
        whole = world.dynamics(played.batch(), k)
    static, first, states, video = split(played, k)
    errors = [difference(logits, whole.video[:, t]) for t, logits in enumerate(video)]
    errors += [difference(logits, whole.state[:, t + 1]) for t, logits in enumerate(states)]
    errors += [difference(logits, whole.state[:, 0, i]) for i, logits in enumerate(first)] if first else []
    if static:
        start = world.dynamics.layout.vocabulary.span("state").start
        spoken = whole.header[:, world.dynamics.layout.header_static]
        for i, (low, high) in enumerate(StateCodec(world.schema).legal_ranges("static").tolist()):
            errors.append(difference(static[i], spoken[:, i, start + low : start + high]))
    assert max(errors) <= 1e-5


def test_the_first_state_is_drawn_from_what_teacher_forcing_gives_it(monkeypatch):
    played = play(monkeypatch, WORLD, 16, steps=1)
    with torch.no_grad():
        whole = WORLD.dynamics(played.batch(), 16)
    _, first, _, _ = split(played, 16)
    legal = StateCodec(WORLD.schema).legal_ranges("absolute")
    for i, logits in enumerate(first):
        low, high = legal[i].tolist()
        assert logits[:, low:high].isfinite().all()
        assert difference(logits, whole.state[:, 0, i]) <= 1e-5


def test_streaming_equals_the_whole_after_edits_too(monkeypatch):
    edits = {5: {"player": {"position": (0.3, -0.3)}}, 9: {"ball": {"yaw": 0.1}, "episode": {"doors": (1, 0, 1)}}}
    played = play(monkeypatch, WORLD, 4, edits=edits)
    with torch.no_grad():
        whole = WORLD.dynamics(played.batch(), 4)
    _, _, states, video = split(played, 4)
    assert max(difference(logits, whole.state[:, t + 1]) for t, logits in enumerate(states)) <= 1e-5
    assert max(difference(logits, whole.video[:, t]) for t, logits in enumerate(video)) <= 1e-5


def test_streaming_equals_the_whole_for_a_row_that_was_born_later(monkeypatch):
    world, k, late = WORLD, 4, 5
    rollout = world.start(CAPTIONS, seed=3, sampling=lively(k))
    for t in range(late):
        rollout.step(t % 3)
    logits: list[Tensor] = []

    def recording(given: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        logits.append(given.clone())
        return sample(given, *rest)

    rollout.reset_rows([1], [Beginning(caption="two bodies", seed=8)])
    for file in (engine_file, beginning_file):
        monkeypatch.setattr(file, "sample", recording)
    played = Played(rollout, logits)
    nobody = torch.full((2, 1), -1)
    played.note(nobody, rollout.state)
    for t in range(STEPS):
        before = rollout.state
        rollout.step([t % 3, 1])
        played.note(torch.tensor([[t % 3], [1]]), before)
    batch = played.batch()
    with torch.no_grad():
        whole = world.dynamics(DynamicsBatch(**{f.name: getattr(batch, f.name)[1:] for f in fields(batch)}), k)
    rest = iter(logits)
    for t in range(1, STEPS + 1):
        foreseen, read = next(rest)[1:].clone(), next(rest)[1:]
        foreseen[:, OUTCOME] = read
        assert difference(foreseen, whole.state[:, t]) <= 1e-5
        assert difference(torch.cat([next(rest) for _ in range(16 // k)], 1)[1:], whole.video[:, t]) <= 1e-5


@pytest.mark.parametrize("clock", [10**5, 10**9])
def test_a_clock_that_has_run_for_long_changes_nothing(monkeypatch, clock: int):
    young = play(monkeypatch, WORLD, 4)

    def aged(dynamics, batch: int, clock: int = 0, *, start: int = clock, **more: bool) -> StepCache:
        return StepCache(dynamics, batch, start, **more)

    monkeypatch.setattr(beginning_file, "StepCache", aged)
    old = play(monkeypatch, WORLD, 4)
    assert old.rollout.cache.clock == clock + STEPS - 1
    assert torch.equal(torch.stack(young.video), torch.stack(old.video))
    assert torch.equal(torch.stack(young.state_ids), torch.stack(old.state_ids))
    assert max(difference(a, b) for a, b in zip(young.logits, old.logits)) <= 1e-5


def test_garbage_where_nothing_was_written_yet_changes_nothing():
    clean, dirty = (WORLD.start("a red ball", seed=5, sampling=lively(4)) for _ in range(2))
    cache, config = dirty.cache, WORLD.dynamics.config
    written = (cache.clock - 1) % config.window
    states, ids = slice(written * cache.count, (written + 1) * cache.count), WORLD.dynamics.layout.num_video
    used = (slice(cache.start), slice(0), states, slice(written * ids, (written + 1) * ids))
    for kept, here in zip((*cache.far, *cache.near), used):
        for part in (kept.keys, kept.values):
            rubbish = 1e3 * torch.randn(part.shape)
            rubbish[..., here, :] = part[..., here, :]
            with torch.inference_mode():
                part.copy_(rubbish)
    for t in range(STEPS):
        ours, theirs = clean.step(t % 3), dirty.step(t % 3)
        assert torch.equal(ours.frames, theirs.frames)
        assert torch.equal(ours.state, theirs.state)


@pytest.mark.parametrize("k", [16, 4, 1])
@pytest.mark.parametrize("sees", [False, True])
def test_an_id_changes_nothing_before_it_is_committed(monkeypatch, k: int, sees: bool):
    world = tiny_world(state_sees_video=sees)
    batch = play(monkeypatch, world, k).batch()
    layout, codes = world.dynamics.layout, world.tokenizer.num_codes
    with torch.no_grad():
        before = world.dynamics(batch, k)
        for t, place in ((0, 0), (2, 5), (6, 15), (11, 9)):
            video = batch.input_video.clone()
            video[:, t, place] = (video[:, t, place] + 1) % codes
            after = world.dynamics(replace(batch, input_video=video), k)
            end = (place // k + 1) * k  # the ids of its own pass are drawn without it
            assert torch.equal(before.video[:, :t], after.video[:, :t])
            assert torch.equal(before.video[:, t, :end], after.video[:, t, :end])
            assert torch.equal(before.state[:, : t + 1], after.state[:, : t + 1])
            assert not torch.equal(before.video[:, t + 1], after.video[:, t + 1])
            if end < layout.num_video:
                assert not torch.equal(before.video[:, t, end:], after.video[:, t, end:])
            # The state sees pictures only where it was asked to, and only slots that were fed with them.
            assert torch.equal(before.state, after.state) is not sees


def test_a_state_changes_nothing_before_it_is_committed(monkeypatch):
    batch = play(monkeypatch, WORLD, 4).batch()
    with torch.no_grad():
        before = WORLD.dynamics(batch, 4)
        for t in (1, 6):
            ids = batch.state_ids.clone()
            ids[:, t, 0] = ids[:, t, 0] + torch.where(
                ids[:, t, 0] > StateCodec(WORLD.schema).legal_ranges("change")[0, 0], -1, 1
            )
            after = WORLD.dynamics(replace(batch, state_ids=ids), 4)
            assert torch.equal(before.state[:, : t + 1], after.state[:, : t + 1])
            assert torch.equal(before.video[:, : t + 1], after.video[:, : t + 1])
            assert not torch.equal(before.state[:, t + 1], after.state[:, t + 1])
            states = batch.states.clone()
            states[:, t] += 0.01
            after = WORLD.dynamics(replace(batch, states=states), 4)
            foreseen = [i for i in range(ids.shape[2]) if i not in OUTCOME]
            assert torch.equal(before.state[:, :, foreseen], after.state[:, :, foreseen])
            assert not torch.equal(before.state, after.state)  # what is read of them does change
            assert torch.equal(before.video[:, :t], after.video[:, :t])
            assert not torch.equal(before.video[:, t], after.video[:, t])


# -- copies, rows and edits -------------------------------------------------------------------------


def frames_of(rollout: Rollout, steps: int = 6) -> list[Tensor]:
    return [rollout.step((3 * t) % 2).frames for t in range(steps)]


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


@pytest.mark.parametrize("before", [0, 2, 9])
def test_a_rollout_goes_back_to_a_snapshot_any_number_of_times(before: int):
    rollout = WORLD.start(CAPTIONS, seed=2)
    frames_of(rollout, before)
    mark, state, time = rollout.snapshot(), rollout.state.clone(), rollout.time
    first = frames_of(rollout)
    for _ in range(2):
        rollout.edit({"player": {"colour": "green", "position": (0, 0)}})
        rollout.reset_rows([0], [Beginning(seed=77)])
        rollout.restore(mark)
        assert torch.equal(rollout.state, state)
        assert rollout.time == time
        assert rollout.captions == CAPTIONS
        assert same(frames_of(rollout), first)


def test_a_fork_goes_its_own_way_and_leaves_its_origin_alone():
    rollout, calm = (WORLD.start(CAPTIONS, seed=2) for _ in range(2))
    for each in (rollout, calm):
        frames_of(each, 5)
    fork = rollout.fork()
    fork.edit({"ball": {"colour": "blue", "size": 0.1}})
    fork.step(2)
    fork.reset_rows([1], [Beginning(seed=4)])
    frames_of(fork)
    assert same(frames_of(rollout), frames_of(calm))
    twin = rollout.fork()
    assert same(frames_of(twin), frames_of(rollout))


def test_what_is_drawn_after_a_part_that_was_told_goes_with_it():
    def colours(told: str) -> set[tuple[str, str]]:
        scenes = WORLD.start([""] * 16, seed=3, state={"player": {"colour": told, "position": (0.25, -0.125)}})
        assert all(scenes.describe(row)["player"]["colour"] == told for row in range(16))
        assert all(scenes.describe(row)["player"]["position"] == (0.25, -0.125) for row in range(16))
        return {(scenes.describe(row)["ball"]["colour"], scenes.describe(row)["ball"]["size"]) for row in range(16)}

    assert colours("red") == colours("red")
    assert colours("red") != colours("blue")


def test_rows_reset_alone_equal_a_fresh_start_and_the_others_go_on():
    rollout, calm = (WORLD.start(["a red ball", "two bodies", ""], seed=2) for _ in range(2))
    for each in (rollout, calm):
        frames_of(each, 7)
    new = [Beginning(caption="a blue player", seed=41), Beginning(seed=42, state={"ball": {"position": (0.1, 0.1)}})]
    rollout.reset_rows([2, 0], new)
    alone = [
        WORLD.start("a blue player", seed=41),
        WORLD.start(seed=42, state={"ball": {"position": (0.1, 0.1)}}),
    ]
    assert rollout.captions == ["", "two bodies", "a blue player"]
    for row, fresh in zip((2, 0), alone):
        assert (rollout.frames[row].int() - fresh.frames[0].int()).abs().max() <= 1
    for t in range(STEPS):
        ours, theirs = rollout.step(t % 3), calm.step(t % 3)
        assert torch.equal(ours.frames[1], theirs.frames[1])
        for row, fresh in zip((2, 0), alone):
            step = fresh.step(t % 3)
            assert torch.equal(rollout.now.video_ids[row], fresh.now.video_ids[0])
            torch.testing.assert_close(ours.state[row], step.state[0], atol=1e-5, rtol=0)


def test_an_edit_of_what_does_not_change_rewrites_the_header():
    edited = WORLD.start(CAPTIONS, seed=2)
    frames_of(edited, 5)
    edited.edit({"player": {"colour": "green"}}, row=1)
    written = WORLD.start(["", ""], state=edited.state, seed=9)
    untouched = WORLD.start(CAPTIONS, seed=2)

    def header(rollout: Rollout, row: int) -> Tensor:
        return rollout.cache.far[0].keys[:, row, :, : rollout.cache.start]

    torch.testing.assert_close(header(edited, 1), header(written, 1))  # row 1 has no caption
    torch.testing.assert_close(header(edited, 0), header(untouched, 0))
    assert not torch.allclose(header(edited, 1), header(untouched, 1), atol=1e-3)


def test_an_edit_changes_what_comes_and_only_in_its_row():
    edited, calm = (WORLD.start(CAPTIONS, seed=2) for _ in range(2))
    for each in (edited, calm):
        frames_of(each, 3)
    shown = edited.frames.clone()
    edited.edit({"player": {"position": (0.45, -0.45)}}, row=0)
    assert torch.equal(edited.frames, shown)
    assert edited.describe(0)["player"]["position"] == pytest.approx((0.45, -0.45))
    ours, theirs = edited.step(0), calm.step(0)
    assert torch.equal(ours.frames[1], theirs.frames[1])
    assert not torch.equal(ours.frames[0], theirs.frames[0])


def test_a_refused_edit_changes_nothing():
    rollout = WORLD.start(CAPTIONS, seed=2)
    before = rollout.state.clone()
    with pytest.raises(ValueError, match=r"player.position = 3 is outside \[-0.5, 0.5\] m"):
        rollout.edit({"player": {"colour": "green", "position": (3, 0)}})
    assert torch.equal(rollout.state, before)


# -- beginnings -------------------------------------------------------------------------------------


def test_a_rollout_is_its_seed_whatever_stands_beside_it():
    together = WORLD.start(["a red ball", "two bodies", ""], seed=[5, 1, 9])
    alone = WORLD.start("two bodies", seed=1)
    for t in range(8):
        together.step(t % 3)
        alone.step(t % 3)
        assert torch.equal(together.now.video_ids[1], alone.now.video_ids[0])
        assert torch.equal(together.now.state_ids[1], alone.now.state_ids[0])


def test_a_start_from_frames_shows_them_and_a_start_from_a_state_keeps_it():
    source = WORLD.start(seed=1)
    frames = torch.cat([source.frames, *frames_of(source, 4)], 1)
    rollout = WORLD.start(frames=frames, seed=1)
    assert torch.equal(rollout.now.video_ids, WORLD.tokenizer.encode(frames)[:, -1].flatten(1))
    ids, cache = WORLD.tokenizer.encode(frames), WORLD.tokenizer.start_cache(1)
    for past in ids[:, :-1].unbind(1):
        WORLD.tokenizer.decode_step(past, cache)
    decoded = WORLD.tokenizer.decode_step(ids[:, -1], cache, rollout.state)
    assert torch.equal(rollout.frames[:, -1], decoded[:, -1])
    state = source.state.clone()
    assert torch.equal(WORLD.start(state=state, seed=4).state, state)
    both = WORLD.start(frames=frames, state=state, seed=4)
    assert torch.equal(both.state, state)
    assert torch.equal(both.now.video_ids, rollout.now.video_ids)
    mixed = WORLD.start(frames=frames[0], state={"ball": {"yaw": 1.0}}, seed=[4, 5])
    assert mixed.describe(1)["ball"]["yaw"] == 1.0


def test_rows_started_from_clips_of_different_lengths_show_their_own_pasts():
    source = WORLD.start(seed=1)
    long = torch.cat([source.frames, *frames_of(source, 4)], 1)[0]
    short = long[-3:]
    rollout = WORLD.start(seed=1, batch=2)
    rollout.reset_rows([0, 1], [Beginning(frames=long), Beginning(frames=short)])
    for row, clip in enumerate((long, short)):
        assert torch.equal(rollout.frames[row, -1], WORLD.start(frames=clip).frames[0, -1])


def test_what_happens_is_drawn_and_temperature_zero_is_not():
    still = Sampling(scene_temperature=0.0)
    greedy = [WORLD.start(seed=s, sampling=still) for s in (1, 2)]
    for t in range(5):
        assert torch.equal(greedy[0].step(t % 3).frames, greedy[1].step(t % 3).frames)
    lots = [WORLD.start(seed=s) for s in (1, 2)]
    assert not torch.equal(lots[0].state, lots[1].state)


def test_the_cache_holds_the_same_memory_after_any_number_of_steps():
    rollout = WORLD.start(CAPTIONS, seed=1)

    def tensors(kept: KeysValues) -> list[tuple[int, ...]]:
        return [tuple(kept.keys.shape), tuple(kept.values.shape)]

    def memory() -> list[Any]:
        cache = rollout.cache
        past = sorted(tuple(t.shape) for t in rollout.pixels.past.values())
        return [tensors(kept) for kept in (*cache.far, *cache.near)] + past

    before = memory()
    frames_of(rollout, 40)
    assert memory() == before


def test_mistakes_are_answered_with_the_mend():
    rollout = WORLD.start(CAPTIONS, seed=1)
    with pytest.raises(ValueError, match="3 actions for 2 worlds"):
        rollout.step([0, 1, 2])
    with pytest.raises(ValueError, match="choose from 0 none, 1 left, 2 right"):
        rollout.step("jump")
    with pytest.raises(ValueError, match="choose from 0 none, 1 left, 2 right"):
        rollout.step()
    with pytest.raises(ValueError, match="rows 0 to 1"):
        rollout.edit({"ball": {"yaw": 1.0}}, row=2)
    with pytest.raises(ValueError, match="2 rows need as many beginnings, got 1"):
        rollout.reset_rows([0, 1], [Beginning()])
    with pytest.raises(ValueError, match="2 rows cannot become this rollout"):
        WORLD.start(seed=1).restore(rollout.snapshot())
    with pytest.raises(ValueError, match="not trained for 2 tokens per pass; choose from 16, 4, 1"):
        WORLD.start(sampling=lively(2))
    assert not tiny_world(UNSTEERED).start().step().terminated.any()
    assert PLANE.num_values == rollout.state.shape[1]
