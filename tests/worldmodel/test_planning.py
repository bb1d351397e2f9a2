"""Planners: what they find is what comes of it, better candidates are found, and choices stay choices."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces

from tokenizer.action_space import ActionSpace
from worldmodel.planning import METHODS, Imagined, Planner, distance, minus_return
from worldmodel.sampling import Sampling

from .tiny_world import PLANE, STATELESS, STEERED_TWICE, UNSTEERED, tiny_world

CALM = Sampling()  # the likeliest, so that a plan does what was imagined
WORLD = tiny_world(sampling=CALM)
NEAR = distance(PLANE, "player.position", (0.4, 0.4))


@pytest.mark.parametrize("method", METHODS)
def test_a_plan_costs_what_it_says_when_it_is_carried_out(method: Any):
    rollout = WORLD.start(seed=3)
    rollout.step(0)
    before = rollout.state.clone()
    planner = Planner(cost=NEAR, method=method, horizon=6, held=2, samples=12, iterations=2)
    plan = planner.plan(rollout)
    assert torch.equal(rollout.state, before)
    assert plan.actions.shape == (6, 1)
    assert torch.equal(plan.actions[::2], plan.actions[1::2])
    states = torch.stack([rollout.step(action).state for action in plan.actions])
    nothing = torch.zeros(6, 1)
    assert float(NEAR(Imagined(states, nothing, nothing.bool()))) == pytest.approx(plan.cost, abs=1e-4)


@pytest.mark.parametrize("method", ["cem", "mppi"])
def test_looking_again_finds_better_than_looking_once(method: Any):
    once, often = (
        Planner(cost=NEAR, method=chosen, horizon=8, samples=16, iterations=4, elites=4)
        for chosen in ("shooting", method)
    )
    costs = []
    for seed in range(4):
        rollout = WORLD.start(seed=seed)
        for planner in (once, often):
            planner.reset()
        costs.append((once.plan(rollout).cost, often.plan(rollout).cost))
    assert np.mean(costs, 0)[1] < np.mean(costs, 0)[0]


def test_nothing_counts_once_an_episode_is_over():
    rewards = torch.tensor([[1.0, 0.0], [2.0, 4.0]])
    over = torch.tensor([[False, False], [False, True]])
    states = torch.zeros(2, 2, PLANE.num_values)
    where = PLANE.columns("player", "position")
    states[..., where] = torch.tensor([[[0.0, 0.0], [0.3, 0.4]], [[0.3, 0.4], [0.0, 0.0]]])
    seen = Imagined(states, rewards, over)
    assert minus_return(0.5)(seen).tolist() == [-2.0, -2.0]
    away = distance(PLANE, "player.position", (0.0, 0.0), last=0.0)
    assert away(seen).tolist() == pytest.approx([0.25, 0.5])  # the second stays where it ended
    assert distance(PLANE, "player.position", "ball.position", last=0.0)(seen).tolist() == pytest.approx([0.25, 0.5])


def test_the_next_plan_begins_with_what_was_left_of_the_last():
    rollout = WORLD.start(seed=3)
    planner = Planner(cost=NEAR, horizon=6, samples=16, iterations=3)
    first = planner.act(rollout, steps=2)
    assert first.shape == (2, 1)
    belief = planner._belief
    assert belief is not None
    assert belief.parts[0][-1].tolist() == pytest.approx([1 / 3] * 3)
    assert float(belief.parts[0][0].max()) > 0.5
    planner.reset()
    assert planner._belief is None


@pytest.mark.parametrize("schema", [STEERED_TWICE, STATELESS], ids=["quantities and choices", "pictures alone"])
def test_quantities_and_worlds_of_pictures_are_planned_for_too(schema: Any):
    world = tiny_world(schema, sampling=CALM)
    plan = Planner(cost=minus_return(), horizon=3, samples=6, iterations=2).plan(world.start(seed=1))
    values = plan.actions.numpy()
    assert values.shape == (3, world.actions.num_parts)
    for row in values:
        assert world.actions.space is not None
        assert world.actions.space.contains(world.actions.unflatten(row))


def test_a_quantity_is_searched_within_its_bounds():
    from worldmodel.planning import _Belief

    space = ActionSpace(spaces.Box(-1, 1, (1,)), bins=9)
    belief, chance, goal = _Belief.of(space, 2), torch.Generator().manual_seed(0), torch.tensor([[0.6], [-0.9]])
    for _ in range(6):
        drawn = belief.draw(200, chance)
        assert drawn.abs().max() <= 1
        costs = (drawn[..., 0] - goal).abs().sum(0)
        best = costs.topk(20, largest=False).indices
        belief = belief.learned(drawn, torch.zeros(200, dtype=torch.float64).index_fill(0, best, 1 / 20))
    np.testing.assert_allclose(belief.parts[0][:, 0], goal[:, 0], atol=0.12)


def test_what_cannot_be_planned_says_so():
    with pytest.raises(ValueError, match="choose from shooting, cem, mppi"):
        Planner(cost=NEAR, method="magic")  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="horizon must be at least 1"):
        Planner(cost=NEAR, horizon=0)
    with pytest.raises(ValueError, match="nobody steers"):
        Planner(cost=NEAR).plan(tiny_world(UNSTEERED).start(seed=1))
    with pytest.raises(ValueError, match="one number for each"):
        Planner(cost=lambda seen: seen.rewards, samples=4, horizon=2).plan(WORLD.start(seed=1))
    with pytest.raises(ValueError, match="has 2 values"):
        distance(PLANE, "player.position", (1.0,))
    with pytest.raises(ValueError, match=r"entity\.field"):
        distance(PLANE, "position", (1.0, 2.0))
