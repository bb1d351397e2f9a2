"""A prompt of frames is heard whole: the memory holds what it would hold had the world played them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from worldmodel.beginning import Beginning
from worldmodel.engines import torch_engine
from worldmodel.rollout import Rollout
from worldmodel.sampling import Sampling, sample
from worldmodel.transformer import DynamicsBatch
from worldmodel.world import World

from .tiny_world import PLANE, STATELESS, STEERED_TWICE, UNSTEERED, tiny_world, with_parts

LATENTS = 9  # the window of 3 wraps twice, both anchors are used
R = PLANE.frames_per_step


def film(rows: int = 2, latents: int = LATENTS, seed: int = 0) -> Tensor:
    shape = (rows, 1 + R * (latents - 1), 16, 16, 3)
    return torch.randint(0, 256, shape, generator=torch.Generator().manual_seed(seed)).byte()


def first_logits(monkeypatch: pytest.MonkeyPatch, rollout: Rollout, action: Any) -> Tensor:
    """What the first step's frame is drawn from, (B, V, codes)."""
    logits: list[Tensor] = []

    def recording(given: Tensor, *rest: Any) -> tuple[Tensor, Tensor]:
        logits.append(given.clone())
        return sample(given, *rest)

    with monkeypatch.context() as patch:
        patch.setattr(torch_engine, "sample", recording)
        rollout.step(action)
    passes = rollout.parts.dynamics.layout.num_video // (rollout.sampling.tokens_per_pass or 1)
    return torch.cat(logits[-passes:], 1)


def uncached(rollout: Rollout, prompt: Tensor, actions: Tensor, action: Tensor, k: int) -> Tensor:
    """The same logits by teacher forcing over the whole prompt (B, T, V) and one step more."""
    parts = rollout.parts
    video = torch.cat([prompt, rollout.now.video_ids[:, None]], 1)
    rows, steps = video.shape[:2]
    empty = torch.zeros(rows, steps, 0)
    batch = DynamicsBatch(
        text=parts.encode_captions(rollout.captions),
        static=torch.zeros(rows, 0, dtype=torch.long),
        actions=torch.cat([actions, action[:, None]], 1),
        state_ids=empty.long(),
        states=empty,
        input_states=empty,
        video=video,
        input_video=video,
    )
    with torch.no_grad():
        logits = parts.dynamics(batch, k).video
    assert logits is not None
    return logits[:, -1]


@pytest.mark.parametrize("k", [16, 4, 1])
@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("schema", [STATELESS, UNSTEERED, STEERED_TWICE], ids=["film", "plain film", "two parts"])
def test_a_prompt_that_was_taken_in_equals_the_whole_forward(monkeypatch, schema, known: bool, k: int):
    world = tiny_world(schema)
    steered, frames = bool(world.actions), film()
    given: dict[str, Any] = {}
    if known and steered:
        values = world.actions.ids_to_values(_ids(world, LATENTS - 1))
        given = {"actions": [world.actions.unflatten(each) for each in values]}
    rollout = world.start(["a red ball", ""], frames=frames, seed=3, sampling=Sampling(tokens_per_pass=k), **given)
    prompt = world.tokenizer.encode(frames).flatten(2)
    actions = torch.full((2, LATENTS, world.dynamics.layout.num_action), -1)
    if given:
        actions[:, 1:] = _ids(world, LATENTS - 1)
    now = _ids(world, 1)[0] if steered else torch.tensor([-1])
    action = world.actions.unflatten(world.actions.ids_to_values(now)) if steered else None
    logits = first_logits(monkeypatch, rollout, action)
    whole = uncached(rollout, prompt, actions, now.expand(2, -1), k)
    assert (logits - whole).abs().max() <= 1e-4


def _ids(world: World, count: int) -> Tensor:
    """Local ids of some actions, (count, A)."""
    return world.actions.values_to_ids(world.actions.sample(count, generator=torch.Generator().manual_seed(4)))


@pytest.mark.parametrize("schema", [STATELESS, PLANE], ids=["film", "plane"])
def test_early_frames_of_a_prompt_change_what_comes_after_it(monkeypatch, schema):
    world = tiny_world(schema)
    frames = film(1)
    other = frames.clone()
    other[:, 5 * R - 1 : 5 * R + 1] = 255 - other[:, 5 * R - 1 : 5 * R + 1]  # three steps before the end
    fixed = torch.zeros(schema.num_values) if schema.num_values else None
    ours, theirs = (
        first_logits(monkeypatch, world.start(frames=each, seed=3, state=fixed), "left") for each in (frames, other)
    )
    assert not torch.equal(ours, theirs)


def test_rows_with_prompts_of_any_length_go_on_as_they_would_alone():
    world = tiny_world(STATELESS)
    prompts: Sequence[Tensor | None] = [film(1, 2)[0], film(1, 9)[0], None, film(1, 5)[0]]
    beginnings = [Beginning(seed=i, frames=prompt) for i, prompt in enumerate(prompts)]
    together = Rollout(world.parts, world.engine, beginnings, world.sampling)
    alone = [Rollout(world.parts, world.engine, [each], world.sampling) for each in beginnings]
    for _ in range(5):
        step = together.step("left")
        for row, single in enumerate(alone):
            shown = single.step("left").frames[0]
            assert torch.equal(single.now.video_ids[0], together.now.video_ids[row])
            assert (shown.int() - step.frames[row].int()).abs().max() <= 1


def test_a_row_that_is_reset_to_a_prompt_equals_a_fresh_start():
    world = tiny_world(STATELESS)
    fresh = world.start(frames=film(1), seed=6)
    rollout = world.start(["a red ball", ""], seed=1)
    for _ in range(3):
        rollout.step("right")
    rollout.reset_rows([1], [Beginning(seed=6, frames=film(1)[0])])
    assert torch.equal(rollout.frames[1, -1:], fresh.frames[0])
    for _ in range(5):
        assert torch.equal(rollout.step("left").frames[1], fresh.step("left").frames[0])


def test_a_prompt_shows_its_own_states_where_they_are_read():
    world = tiny_world(PLANE)
    frames = film(1)
    rollout = world.start(frames=frames, seed=3)
    assert torch.allclose(rollout.state, world.estimate(frames))
    blind = with_parts(world, estimator=None)
    with pytest.raises(ValueError, match="has no state estimator"):
        blind.start(frames=frames)


def test_actions_that_do_not_fit_the_frames_are_refused():
    world = tiny_world(STATELESS)
    with pytest.raises(ValueError, match="3 actions lie between 9 latent frames: give 8"):
        world.start(frames=film(1), actions=["left"] * 3)
    with pytest.raises(ValueError, match="give the frames too"):
        world.start(actions=["left"])
    with pytest.raises(ValueError, match="unknown action"):
        world.start(frames=film(1), actions=["up"] * 8)


def test_a_world_without_words_reads_none():
    silent = tiny_world(STATELESS, words=False)
    assert silent.text is None
    rollout = silent.start(seed=1)
    rollout.step("left")
    with pytest.raises(ValueError, match="was learned without captions"):
        silent.start("a red ball")
    with pytest.raises(ValueError, match="has no words"):
        silent.caption(rollout.state)
    with pytest.raises(ValueError, match="can be told nothing"):
        rollout.tell("rolls")


def test_reward_and_end_are_read_from_pictures_where_no_state_holds_them():
    world = tiny_world(STATELESS, rewards=(0.0, 0.5, 1.0), predict_end=True)
    rollout = world.start(batch=2, seed=1)
    steps = [rollout.step("left") for _ in range(6)]
    rewards = torch.stack([step.reward for step in steps])
    assert set(rewards.flatten().tolist()) <= {0.0, 0.5, 1.0}
    assert steps[0].terminated.dtype == torch.bool
    reader = world.dynamics.frame_outcome
    assert reader is not None
    with torch.no_grad():
        assert reader.end is not None
        reader.end.bias.fill_(99)
    assert rollout.step("left").terminated.all()
    with torch.no_grad():
        reader.end.bias.fill_(-99)
    assert not rollout.step("left").terminated.any()


def test_frames_a_step_must_agree_between_tokenizer_and_schema():
    with pytest.raises(ValueError, match="makes 2 frames a step and 'film' has 3"):
        tiny_world(replace(STATELESS, frames_per_step=3))
