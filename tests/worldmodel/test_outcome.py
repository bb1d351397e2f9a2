"""Reward and end are read from where a step led to."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from worldmodel.outcome import OutcomeReader

from .tiny_world import PLANE, tiny_world


def test_it_learns_a_sharp_threshold_between_two_bodies():
    """A reward whenever player and ball are nearer than 0.3: held-out states are told apart."""
    torch.manual_seed(0)
    reader, ids = OutcomeReader(PLANE, PLANE.num_local_ids, hidden=32), PLANE.num_local_ids
    player, ball = (PLANE.columns(name, "position") for name in ("player", "ball"))
    reward = next(i for i, slot in enumerate(PLANE.slots) if slot.field.role == "reward")
    start = PLANE.slots[reward].offset
    optimizer = torch.optim.AdamW(reader.parameters(), 3e-3)

    def batch(size: int) -> tuple[torch.Tensor, torch.Tensor]:
        states = torch.zeros(size, PLANE.num_values)
        states[:, player], states[:, ball] = torch.rand(size, 2) - 0.5, torch.rand(size, 2) - 0.5
        return states, (states[:, player] - states[:, ball]).norm(dim=-1) < 0.3

    for _ in range(300):
        states, near = batch(256)
        logits = reader(states, states)[:, reader.slots.index(reward)]
        assert logits.shape == (256, ids)
        loss = F.cross_entropy(logits, start + near.long())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    states, near = batch(2000)
    said = reader(states, states)[:, reader.slots.index(reward)].argmax(-1) - start
    assert (said == near.long()).float().mean() > 0.97


def test_a_rollout_says_what_is_read_of_the_state_it_led_to():
    world = tiny_world(end=0.0)
    outcome = world.dynamics.outcome
    assert outcome is not None
    slot = next(slot for slot in PLANE.slots if slot.field.role == "reward")
    with torch.no_grad():
        outcome.head.weight[slot.offset : slot.offset + 2] = 0
        outcome.head.bias[slot.offset : slot.offset + 2] = torch.tensor([-50.0, 50.0])
    assert world.start(seed=1).step(0).reward.item() == 1
    with torch.no_grad():
        outcome.head.bias[slot.offset : slot.offset + 2] = torch.tensor([50.0, -50.0])
    assert world.start(seed=1).step(0).reward.item() == 0
