"""Planners that act by imagining: random shooting, the cross-entropy method and path integrals, over rows of a rollout.

A plan is found by forking one row into as many as there are candidates, stepping them all together, and asking a cost
which went best. Only the first actions of it are taken; then it is planned again (model predictive control). Sources:
random shooting as in arXiv:1708.02596; the cross-entropy method as in PETS, arXiv:1805.12114; MPPI, arXiv:1707.02342.
Parts of an action that are choices have a distribution over them at every moment, quantities a mean and a spread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

from tokenizer.action_space import ActionPart, ActionSpace
from tokenizer.state_schema import StateSchema
from worldmodel.rollout import Rollout

METHODS = ("shooting", "cem", "mppi")
_KEPT = 0.1  # of an old distribution, so that no choice is lost for ever
_SPREAD = 0.5  # of half a quantity's range, at first


@dataclass(frozen=True)
class Imagined:
    """What n candidates led to in H steps.

    states: float32 (H, n, num_values), each after its step, in the schema's units. rewards: float32 (H, n), as
    expected, 0 once the episode is over. over: bool (H, n), whether it was over before that step.
    """

    states: Float[Tensor, "H n F"]
    rewards: Float[Tensor, "H n"]
    over: Bool[Tensor, "H n"]


Cost = Callable[[Imagined], Tensor]


def minus_return(discount: float = 0.99) -> Cost:
    """What is lost in reward, (n,): the negative sum of rewards, each step's worth ``discount`` of the last's."""

    def cost(seen: Imagined) -> Tensor:
        worth = discount ** torch.arange(len(seen.rewards), device=seen.rewards.device)
        return -(worth[:, None] * seen.rewards).sum(0)

    return cost


def distance(schema: StateSchema, one: str, other: str | Any, *, last: float = 1.0) -> Cost:
    """How far a field is from another, or from a value: ``distance(schema, "player.position", "target.position")``.

    The mean over all steps, and ``last`` times that of the last, each (n,), in the field's unit. The way stops where an
    episode is over. Raises ValueError for fields that are not there, or not of the same size.
    """
    columns, (entity, name) = _columns(schema, one), one.split(".", 1)
    f, width = schema.entity(entity).field(name), columns.stop - columns.start
    there = _columns(schema, other) if isinstance(other, str) else None
    goal = torch.zeros(0) if there is not None else torch.as_tensor(other, dtype=torch.float32).reshape(-1)
    if width != (len(goal) if there is None else there.stop - there.start):
        raise ValueError(f"{one} has {width} values, and {other} another number of them")

    def cost(seen: Imagined) -> Tensor:
        states = seen.states.clone()
        for t in range(1, len(states)):  # nothing moves on when it is over
            states[t] = torch.where(seen.over[t][:, None], states[t - 1], states[t])
        here = states[..., columns]
        to = goal.to(here).expand_as(here) if there is None else states[..., there]
        away = torch.linalg.vector_norm(f.difference(here, to), dim=-1)
        return away.mean(0) + last * away[-1]

    return cost


def _columns(schema: StateSchema, name: str) -> slice:
    entity, dot, f = name.partition(".")
    if not dot:
        raise ValueError(f"name a field as entity.field, not {name!r}")
    return schema.columns(entity, f)


@dataclass(frozen=True)
class Plan:
    """actions: float32 or int64 (H, A), as ``Rollout.step`` takes them. cost: what it costs, as imagined."""

    actions: Tensor
    cost: float


@dataclass(kw_only=True)
class Planner:
    """Finds what to do next in a running world.

    Args:
        cost: of candidates, the less the better: :func:`minus_return`, :func:`distance`, or a function of yours.
        method: ``shooting``, ``cem`` or ``mppi``.
        horizon: steps that are imagined.
        held: steps for which each action of a plan is held.
        samples: candidates, imagined as one batch.
        iterations: how often they are drawn, from what was learned of the last; shooting draws once.
        elites: of the candidates, how many the cross-entropy method learns from.
        temperature: of costs, in multiples of their spread, for MPPI.
        seed: of the candidates.

    Raises ValueError for an unknown method, or for numbers below 1.
    """

    cost: Cost
    method: Literal["shooting", "cem", "mppi"] = "cem"
    horizon: int = 12
    held: int = 1
    samples: int = 64
    iterations: int = 3
    elites: int = 8
    temperature: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        if self.method not in METHODS:
            raise ValueError(f"unknown method {self.method!r}; choose from {', '.join(METHODS)}")
        for name in ("horizon", "held", "samples", "iterations", "elites"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        self._chance = torch.Generator().manual_seed(self.seed)
        self._belief: _Belief | None = None

    def reset(self) -> None:
        """Forgets the last plan, as where an episode begins."""
        self._belief = None

    def act(self, rollout: Rollout, row: int = 0, *, steps: int = 1) -> Tensor:
        """The next ``steps`` actions, (steps, A). What was planned beyond them is where the next plan begins."""
        plan = self.plan(rollout, row)
        assert self._belief is not None
        self._belief = self._belief.later(steps // self.held)
        return plan.actions[:steps]

    def plan(self, rollout: Rollout, row: int = 0) -> Plan:
        """The best of all candidates that were imagined from this row on, which stays as it is.

        Raises ValueError in a world that nobody steers.
        """
        space = rollout.parts.actions
        if not space:
            raise ValueError("nobody steers this world, so there is nothing to plan")
        decisions = -(-self.horizon // self.held)
        belief = self._belief or _Belief.of(space, decisions)
        best: Plan | None = None
        for _ in range(1 if self.method == "shooting" else self.iterations):
            drawn = belief.draw(self.samples, self._chance)
            if best is not None:
                drawn[:, 0] = best.actions[:: self.held].to(drawn)
            costs = self.cost(self._imagine(rollout, row, drawn)).double().cpu()
            if costs.shape != (self.samples,):
                raise ValueError(
                    f"a cost is one number for each of {self.samples} candidates, got {tuple(costs.shape)}"
                )
            first = int(costs.argmin())
            if best is None or float(costs[first]) <= best.cost:
                best = Plan(drawn[:, first].repeat_interleave(self.held, 0)[: self.horizon], float(costs[first]))
            belief = belief.learned(drawn, self._weights(costs))
        assert best is not None
        self._belief = belief
        return best

    def _weights(self, costs: Tensor) -> Tensor:
        """How much is learned from each candidate, (n,), summing to 1."""
        if self.method == "mppi":
            spread = costs.std().clamp_min(1e-9)
            return (-(costs - costs.min()) / (self.temperature * spread)).softmax(0)
        count = min(self.elites, len(costs))
        return torch.zeros_like(costs).scatter(0, costs.topk(count, largest=False).indices, 1 / count)

    def _imagine(self, rollout: Rollout, row: int, drawn: Tensor) -> Imagined:
        rows = rollout.fork([row] * self.samples, draw=not rollout.parts.dynamics.simulates_alone)
        states, rewards, over = [], [], [torch.zeros(self.samples, dtype=torch.bool, device=rollout.parts.device)]
        for t in range(self.horizon):
            made = rows.step(drawn[t // self.held])
            states.append(made.state)
            rewards.append(made.reward_mean.masked_fill(over[-1], 0))
            over.append(over[-1] | made.terminated)
        return Imagined(torch.stack(states), torch.stack(rewards), torch.stack(over[:-1]))


@dataclass(frozen=True)
class _Belief:
    """What is thought of the best plan: for every part of an action and every decision, how likely each of its ids is,
    (decisions, size), or the mean and spread of a quantity, (decisions, 2)."""

    space: ActionSpace
    parts: tuple[Tensor, ...]

    @classmethod
    def of(cls, space: ActionSpace, decisions: int) -> _Belief:
        """Nothing is known yet."""
        return cls(space, tuple(_unknown(part).expand(decisions, -1).clone() for part in space.parts))

    def draw(self, count: int, chance: torch.Generator) -> Tensor:
        """Candidates, (decisions, count, A)."""
        columns = []
        for part, known in zip(self.space.parts, self.parts, strict=True):
            if part.kind == "binned":
                mean, spread = known[:, :1], known[:, 1:]
                values = mean + spread * torch.randn(len(known), count, generator=chance)
                low, high = part.levels[0], part.levels[-1]
                columns.append((values.round() if part.whole else values).clamp(low, high).double())
            else:
                ids = torch.multinomial(known, count, replacement=True, generator=chance)
                columns.append(torch.from_numpy(part.decode(ids.numpy()).astype(np.float64)))
        values = torch.stack(columns, -1)
        return values.to(torch.int64 if self.space.dtype is np.int64 else torch.float32)

    def learned(self, drawn: Tensor, weights: Tensor) -> _Belief:
        """Fitted to candidates (decisions, n, A) by their weights (n,), with a little of what was thought before."""
        made = []
        for i, (part, known) in enumerate(zip(self.space.parts, self.parts, strict=True)):
            values = drawn[..., i].double()
            if part.kind == "binned":
                mean = values @ weights
                spread = ((values - mean[:, None]).square() @ weights).sqrt()
                found = torch.stack([mean, spread], 1)
            else:
                ids = torch.from_numpy(part.encode(values.numpy()))
                shares = weights.expand_as(values)
                found = torch.zeros(known.shape, dtype=torch.float64).scatter_add(1, ids, shares)
            made.append((1 - _KEPT) * found.float() + _KEPT * known)
        return replace(self, parts=tuple(made))

    def later(self, decisions: int) -> _Belief:
        """So many decisions on, the last of them unknown."""
        if not decisions:
            return self
        parts = []
        for part, known in zip(self.space.parts, self.parts, strict=True):
            fresh = _unknown(part).expand(len(known), -1)
            parts.append(torch.cat([known[decisions:], fresh[: min(decisions, len(known))]]))
        return replace(self, parts=tuple(parts))


def _unknown(part: ActionPart) -> Tensor:
    if part.kind == "binned":
        low, high = part.levels[0], part.levels[-1]
        return torch.tensor([[(low + high) / 2, _SPREAD * (high - low) / 2]])
    return torch.full((1, part.size), 1 / part.size)
