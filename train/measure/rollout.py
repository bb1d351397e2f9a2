"""How long a world stays with what truly happens: free running on recorded actions.

Rollouts start from an episode's first frame and true first state and then run free; without a state, from its first
few steps (``prompt_steps``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tokenizer.clip import Episode
from tokenizer.state_schema import StateSchema
from train.data.tokens import TokenisedEpisode
from train.measure.bodies import Bodies, angle_error
from train.measure.content import Content
from train.measure.foreground import PooledErrors, median_picture, regions
from train.measure.free_running import (
    foreseen_states,
    imagine,
    in_batches,
    num_steps,
    padded,
    prompt_steps,
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
PICTURES = ("psnr", "psnr_median", "psnr_copy_last", "psnr_ceiling")
ROLES = ("reward", "terminated")


class Outcomes:
    """When reward and end first come, as a world foresees them and as they happened. A reward is one from half of
    ``largest`` on, either way."""

    def __init__(self, largest: float = 1.0) -> None:
        self.least = {"reward": largest / 2 or 0.5, "terminated": 0.5}
        self.steps: dict[str, tuple[list[int | None], list[int | None]]] = {}

    def note(self, role: str, foreseen: Tensor, happened: Tensor) -> None:
        """Values (T,) that may go on after the true ones (n,)."""
        least, (ours, true) = self.least[role], self.steps.setdefault(role, ([], []))
        ours.append(first_event(foreseen[: len(happened) + EVENT_TOLERANCE].abs() > least))
        true.append(first_event(happened.abs() > least))

    def numbers(self) -> Numbers:
        numbers: Numbers = {}
        for role, (foreseen, happened) in self.steps.items():
            numbers[f"{role}_f1"] = event_f1(foreseen, happened)
            numbers[f"{role}_events"] = sum(step is not None for step in happened)
        return numbers


def recorded_outcomes(world: World, episode: Episode) -> dict[str, Tensor]:
    """Reward and end of each step, (n,), as far as the episode tells them and the world foresees them."""
    found: dict[str, Tensor] = {}
    told = {"reward": episode.rewards, "terminated": episode.terminated}
    beside = {"reward": world.dynamics.config.rewards, "terminated": world.dynamics.config.predict_end}
    for role, values in told.items():
        columns = list(world.schema.role_columns(role).values())
        if columns and episode.states is not None:
            found[role] = torch.from_numpy(episode.states[1:, columns[0].start])
        elif not columns and values is not None and beside[role]:
            found[role] = torch.from_numpy(values).float()
    return found


def measure_rollout(
    world: World, episodes: Sequence[Episode], *, horizon: int, seed: int, sampling: Sampling
) -> Measurement:
    """Free running on the true actions.

    ``copy_last`` is what holding on to the first frame or state would give; ``psnr_ceiling_by_step_db`` what the
    tokenizer gives for the real frames. ``others`` are all present bodies but the player's. ``delta_psnr_8_db``:
    Genie's controllability (arXiv:2402.15391), PSNR with the true actions less PSNR with random ones, at step 8.
    ``reward_f1`` and ``terminated_f1`` ask whether a rollout's first event comes within two steps of the real one; an
    event is the end, or a reward from half of the largest recorded one on.

    ``foreground_psnr_db_8`` and the like are errors over the pixels that matter (see ``foreground.py``), ``_median`` of
    the episode's median picture, ``_ceiling`` of the tokenizer. ``delta_foreground_psnr_8_db`` is ``delta_psnr_8_db``
    over foreground. ``foreground_amount``: how many pixels are drawn that differ from the median picture, as a multiple
    of the true number; ``things``: how many connected parts they make. ``freezes``: share of steps without a changed
    pixel among those in which the real one moves; ``loops``: share of rollouts that go round in circles where the real
    one doesn't.
    """
    r = world.tokenizer.frames_per_step
    prompts = [e.window(0, prompt_steps(world, e)) for e in episodes]
    medians = [median_picture(torch.from_numpy(e.frames)) for e in episodes]
    shown = [num_steps(prompt, r) for prompt in prompts]
    episodes = [replace(e, **vars(e.window(n, num_steps(e, r) - n))) for e, n in zip(episodes, shown, strict=True)]
    horizon = min(horizon, max(num_steps(e, r) for e in episodes))
    generator = torch.Generator().manual_seed(seed)
    scores: dict[str, list[Tensor]] = {}
    outcomes = [recorded_outcomes(world, e) for e in episodes]
    rewards = [float(o["reward"].abs().max()) for o in outcomes if len(o.get("reward", ()))]
    events, pictures = Outcomes(max(rewards, default=1.0)), Pictures([], [])
    pooled, content = PooledErrors(horizon), Content()

    def note(name: str, values: Tensor) -> None:
        scores.setdefault(name, []).append(values)

    alike = [[i for i, n in enumerate(shown) if n == count] for count in sorted(set(shown), reverse=True)]
    for batch in (batch for indices in alike for batch in in_batches(indices)):
        rows, median = [episodes[i] for i in batch], torch.stack([medians[i] for i in batch])
        length = torch.tensor([num_steps(e, r) for e in rows])
        note("alive", torch.arange(horizon) < length[:, None])
        real = padded([e.frames for e in rows], 1 + r * horizon)
        later = real[:, 1:].unflatten(1, (horizon, r))
        begun = start(world, [prompts[i] for i in batch], seed=seed, sampling=sampling)
        astray = None
        if world.actions:
            astray = imagine(begun.fork(), random_actions(world, len(rows), min(8, horizon), generator)).frames
            note("psnr_astray", psnr(astray, later[:, : min(8, horizon)]).mean(2))
        ours = imagine(begun, recorded_actions(world, rows, horizon))
        note("psnr", psnr(ours.frames, later).mean(2))
        note("psnr_copy_last", psnr(real[:, :1, None].expand_as(later), later).mean(2))
        note("psnr_median", psnr(median[:, None, None].expand_as(later), later).mean(2))
        known = [e.states for e in rows if e.states is not None]
        states = padded(known, 1 + horizon) if len(known) == len(rows) else None
        decoded = torch.cat(
            [rebuilt(world, e[None], None if states is None else states[i : i + 1]) for i, e in enumerate(real)]
        )
        note("psnr_ceiling", psnr(decoded[:, 1:].unflatten(1, (horizon, r)), later).mean(2))
        for row, episode in enumerate(rows):
            steps = min(horizon, num_steps(episode, r))
            whole = real[row, : 1 + r * steps]
            where = {name: w.unflatten(0, (steps, r)) for name, w in regions(whole, median[row]).items()}
            makers = {
                "": ours.frames[row],
                "median": median[row].expand_as(later[row]),
                "copy_last": real[row, :1, None].expand_as(later[row]),
                "ceiling": decoded[row, 1:].unflatten(0, (horizon, r)),
                **({} if astray is None else {"astray": astray[row]}),
            }
            for maker, made in makers.items():
                n = min(steps, len(made))
                pooled.note(maker, made[:n], later[row, :n], {name: w[:n] for name, w in where.items()})
            pictures.real.append(whole[::r])
            pictures.imagined.append(torch.cat([decoded[row, :1], ours.frames[row, :steps, -1]]))
            content.note(median[row], whole[::r], pictures.imagined[-1], decoded[row, : len(whole) : r])
            for role, happened in recorded_outcomes(world, episode).items():
                events.note(role, ours.rewards[row] if role == "reward" else ours.ends[row].float(), happened[:horizon])
        if world.schema.num_values and states is not None:
            for name, values in _state_errors(world.schema, ours.states, states).items():
                note(name, values)

    numbers: Numbers = {
        "rows": len(episodes),
        "horizon": horizon,
        "prompt_steps": max(shown),
        **_summary({k: torch.cat(v) for k, v in scores.items()}),
        **_over_regions(pooled),
        **content.numbers(),
        **events.numbers(),
    }
    return Measurement(numbers, pictures)


def _over_regions(pooled: PooledErrors) -> Numbers:
    numbers = {key: value for key, value in pooled.numbers().items() if "astray" not in key}
    for region, maker in pooled.sums:
        if maker == "astray":
            gained = pooled.psnr(region, "") - pooled.psnr(region, maker)
            numbers[f"delta_{region}_psnr_8_db"] = gained[7] if len(gained) >= 8 else None
    return numbers


def _state_errors(schema: StateSchema, ours: Tensor, true: Tensor) -> dict[str, Tensor]:
    """What states (B, T, num_values) are off by, (B, T), of the true ones (B, 1 + T, num_values): ours, and under
    ``copy_last`` the first one held."""
    bodies, first, truth = Bodies.of(schema), true[:, :1].expand_as(true[:, 1:]), true[:, 1:]
    errors: dict[str, Tensor] = {}
    for suffix, states in (("", ours), ("_copy_last", first)):
        if len(bodies):
            away, others = bodies.distance(states, truth), bodies.present(truth)
            others[..., 0] = False
            errors[f"player_error{suffix}"] = away[..., 0]
            if len(bodies) > 1:
                errors[f"others_error{suffix}"] = torch.where(others, away, 0.0).sum(-1) / others.sum(-1)
        for role in ("camera", "light"):
            angle = angle_error(schema, role, states, truth)
            if angle is not None:
                errors[f"{role}_error_deg{suffix}"] = angle
    return errors


def measure_outcomes(
    world: World, episodes: Sequence[TokenisedEpisode], *, horizon: int, seed: int, sampling: Sampling
) -> Numbers:
    """``reward_f1`` and ``terminated_f1`` as ``measure_rollout`` has them, of episodes of states alone: events are
    rare, and these are cheap enough to have many."""
    events, columns = Outcomes(), {role: list(world.schema.role_columns(role).values())[:1] for role in ROLES}
    states = foreseen_states(world, episodes, horizon=horizon, seed=seed, sampling=sampling)
    for row, episode in zip(states, episodes, strict=True):
        assert episode.states is not None
        for role, found in columns.items():
            for column in found:
                events.note(role, row[:, column.start], episode.states[1:, column.start])
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
        **{f"{name}_by_step_db": by_step[name] for name in PICTURES},
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
