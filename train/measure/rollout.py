"""How long a world stays with what truly happens: free running on recorded actions.

Rollouts start from an episode's first frame and true first state and then run free.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from tokenizer.clip import Episode
from tokenizer.state_schema import StateSchema
from train.data.tokens import TokenisedEpisode
from train.measure.bodies import Bodies, angle_error
from train.measure.free_running import (
    foreseen_states,
    imagine,
    in_batches,
    num_steps,
    padded,
    random_actions,
    recorded_actions,
    start,
)
from train.measure.measurement import Measurement, Numbers, Pictures
from train.measure.metrics import EVENT_TOLERANCE, event_f1, first_event, masked_mean, psnr
from train.measure.tokenizer import rebuilt
from worldmodel.sampling import Sampling
from worldmodel.world import World

MARKS = (8, 16, 32, 64)  # steps whose errors get a key of their own


class Outcomes:
    """When reward and end first come, as a world foresees them and as they happened."""

    def __init__(self, schema: StateSchema) -> None:
        columns = {role: list(schema.role_columns(role).values())[:1] for role in ("reward", "terminated")}
        self.columns = {role: found[0].start for role, found in columns.items() if found}
        self.steps: dict[str, tuple[list[int | None], list[int | None]]] = {role: ([], []) for role in self.columns}

    def note(self, states: Tensor, truth: Tensor) -> None:
        """States (T, num_values) that may go on after the true ones (n, num_values)."""
        for role, column in self.columns.items():
            foreseen, happened = self.steps[role]
            foreseen.append(first_event(states[: len(truth) + EVENT_TOLERANCE, column] > 0.5))
            happened.append(first_event(truth[:, column] > 0.5))

    def numbers(self) -> Numbers:
        numbers: Numbers = {}
        for role, (foreseen, happened) in self.steps.items():
            numbers[f"{role}_f1"] = event_f1(foreseen, happened)
            numbers[f"{role}_events"] = sum(step is not None for step in happened)
        return numbers


def measure_rollout(
    world: World, episodes: Sequence[Episode], *, horizon: int, seed: int, sampling: Sampling
) -> Measurement:
    """Free running on the true actions.

    ``copy_last`` is what holding on to the first frame or state would give; ``psnr_ceiling_by_step_db`` what the
    tokenizer gives for the real frames. ``others`` are all present bodies but the player's. ``delta_psnr_8_db``:
    Genie's controllability (arXiv:2402.15391), PSNR with the true actions less PSNR with random ones, at step 8.
    ``reward_f1`` and ``terminated_f1`` ask whether a rollout's first event comes within two steps of the real one.
    """
    bodies, r = Bodies.of(world.schema), world.tokenizer.frames_per_step
    horizon = min(horizon, max(num_steps(e, r) for e in episodes))
    generator = torch.Generator().manual_seed(seed)
    scores: dict[str, list[Tensor]] = {}
    events, pictures = Outcomes(world.schema), Pictures([], [])

    def note(name: str, values: Tensor | None) -> None:
        if values is not None:
            scores.setdefault(name, []).append(values)

    for rows in in_batches(episodes):
        length = torch.tensor([num_steps(e, r) for e in rows])
        note("alive", torch.arange(horizon) < length[:, None])
        real = padded([e.frames for e in rows], 1 + r * horizon)
        later = real[:, 1:].unflatten(1, (horizon, r))
        begun = start(world, [e.window(0, 0) for e in rows], seed=seed, sampling=sampling)
        if world.actions:
            astray = imagine(begun.fork(), random_actions(world, len(rows), min(8, horizon), generator))
            note("psnr_astray", psnr(astray.frames, later[:, : min(8, horizon)]).mean(2))
        ours = imagine(begun, recorded_actions(world, rows, horizon))
        note("psnr", psnr(ours.frames, later).mean(2))
        note("psnr_copy_last", psnr(real[:, :1, None].expand_as(later), later).mean(2))
        known = [e.states for e in rows if e.states is not None]
        states = padded(known, 1 + horizon) if len(known) == len(rows) else None
        decoded = torch.cat(
            [rebuilt(world, e[None], None if states is None else states[i : i + 1]) for i, e in enumerate(real)]
        )
        note("psnr_ceiling", psnr(decoded[:, 1:].unflatten(1, (horizon, r)), later).mean(2))
        for row, episode in enumerate(rows):
            steps = min(horizon, num_steps(episode, r))
            pictures.real.append(real[row, : 1 + r * steps : r])
            pictures.imagined.append(torch.cat([decoded[row, :1], ours.frames[row, :steps, -1]]))
        if not world.schema.num_values or states is None:
            continue
        first, truth = states[:, :1], states[:, 1:]
        if len(bodies):
            for name, states in (("error", ours.states), ("error_copy_last", first.expand_as(truth))):
                away, there = bodies.distance(states, truth), bodies.present(truth)
                there[..., 0] = False
                note(f"player_{name}", away[..., 0])
                if len(bodies) > 1:
                    note(f"others_{name}", torch.where(there, away, 0.0).sum(-1) / there.sum(-1))
        for role in ("camera", "light"):
            note(f"{role}_error_deg", angle_error(world.schema, role, ours.states, truth))
            note(f"{role}_error_deg_copy_last", angle_error(world.schema, role, first.expand_as(truth), truth))
        for row, steps in enumerate(length.tolist()):
            events.note(ours.states[row], truth[row, :steps])

    numbers: Numbers = {
        "rows": len(episodes),
        "horizon": horizon,
        **_summary({k: torch.cat(v) for k, v in scores.items()}),
        **events.numbers(),
    }
    return Measurement(numbers, pictures)


def measure_outcomes(
    world: World, episodes: Sequence[TokenisedEpisode], *, horizon: int, seed: int, sampling: Sampling
) -> Numbers:
    """``reward_f1`` and ``terminated_f1`` as ``measure_rollout`` has them, of episodes of states alone: events are
    rare, and these are cheap enough to have many."""
    events = Outcomes(world.schema)
    states = foreseen_states(world, episodes, horizon=horizon, seed=seed, sampling=sampling)
    for row, episode in zip(states, episodes, strict=True):
        assert episode.states is not None
        events.note(row, episode.states[1:])
    return {"rows": len(episodes), **events.numbers()}


def _summary(scores: dict[str, Tensor]) -> Numbers:
    """Means by step, of what was scored (B, T) while rows were ``alive`` (B, T)."""
    alive = scores["alive"]
    by_step = {
        name: masked_mean(values, alive[:, : values.shape[1]] & ~values.isnan())
        for name, values in scores.items()
        if name != "alive"
    }
    numbers: Numbers = {
        "rows_by_step": alive.sum(0),
        **{f"{name}_by_step_db": by_step[name] for name in ("psnr", "psnr_copy_last", "psnr_ceiling")},
    }
    if "psnr_astray" in scores:
        lasting = alive[:, 7] if alive.shape[1] >= 8 else torch.zeros(len(alive), dtype=torch.bool)
        gained = [
            (scores["psnr"][row, 7] - scores["psnr_astray"][row, 7]).item() for row in lasting.nonzero()[:, 0].tolist()
        ]
        numbers["delta_psnr_8_db"] = sum(gained) / len(gained) if gained else None
    for who in ("player_error", "others_error", "camera_error_deg", "light_error_deg"):
        for held in ("", "_copy_last"):
            if f"{who}{held}" in by_step:
                errors = by_step[f"{who}{held}"].tolist()
                numbers[f"{who}_by_step{held}"] = errors
                numbers |= {f"{who}_{mark}{held}": errors[mark - 1] for mark in MARKS if mark <= len(errors)}
    if "player_error_16" in numbers:
        ours, still = numbers["player_error_16"], numbers["player_error_16_copy_last"]
        numbers["player_error_16_of_copy_last"] = ours / still if still else None
    return numbers
