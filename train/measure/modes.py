"""What it costs to settle many ids at once: ``modes`` in an evaluation for a picture's, ``state_modes`` for a state's;
never speed without quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from tokenizer.clip import Episode
from tokenizer.scene import StateReader
from train.data.tokens import TokenisedEpisode
from train.measure.bodies import Bodies
from train.measure.free_running import foreseen_states
from train.measure.measurement import Numbers
from train.measure.rollout import measure_rollout
from worldmodel.bench import raster_of, time_steps
from worldmodel.sampling import Sampling
from worldmodel.world import World

HORIZON = 32


def measure_modes(world: World, episodes: Sequence[Episode], *, seed: int, sampling: Sampling, steps: int) -> Numbers:
    """For each number of ids a pass that the world was trained for: PSNR over the horizon (``psnr_db``, mean of all
    steps, and ``psnr_32_db``), state errors at its end, and milliseconds of a step.

    ``raster_step_ms`` is that of one id a pass, by weights that were not trained for it if the world's were not.
    """
    numbers: Numbers = {"rows": len(episodes)}
    for k in world.dynamics.config.tokens_per_pass:
        chosen = replace(sampling, tokens_per_pass=k)
        found = measure_rollout(world, episodes, horizon=HORIZON, seed=seed, sampling=chosen).numbers
        by_step = found["psnr_by_step_db"]
        numbers[str(k)] = {
            "psnr_db": by_step.mean(),
            "psnr_32_db": by_step[-1],
            **{name: found[name] for name in ("player_error_32", "others_error_32") if name in found},
            "step_ms": time_steps(world, steps=steps, sampling=chosen)["step_ms"]["p50"],
        }
    numbers["raster_step_ms"] = time_steps(raster_of(world, world.engine.name), steps=2)["step_ms"]["p50"]
    return numbers


def measure_state_modes(
    world: World, episodes: Sequence[TokenisedEpisode], *, seed: int, sampling: Sampling, steps: int
) -> Numbers:
    """For each number of state ids a pass that the world was trained for: all bodies' mean distance from the truth
    after 8 and 32 free steps, in table widths (``error_8``, ``error_32``), the likeliest id taken; the share of states
    with bodies inside one another, so (``overlapping``) and with ids drawn at temperature 1 (``overlapping_drawn``);
    and milliseconds of a step's state passes (``simulate_ms``) and of the step.

    ``recorded_overlapping`` is the recording's share, whose boxes' sides may be nearer than their corners.
    """
    bodies, reader = Bodies.of(world.schema), StateReader(world.schema)
    rows = [episode for episode in episodes if episode.num_latent_frames > HORIZON]
    if not rows:
        return {"rows": 0}
    truth = torch.stack([episode.states[1 : 1 + HORIZON] for episode in rows if episode.states is not None])
    there = bodies.present(truth)

    def overlapping(states: torch.Tensor) -> torch.Tensor:
        return reader(states.flatten(0, 1)).overlapping.float().mean()

    numbers: Numbers = {"rows": len(rows), "recorded_overlapping": overlapping(truth)}
    for k in world.dynamics.state_modes:
        chosen = replace(sampling, state_tokens_per_pass=k)
        likeliest, drawn = (
            foreseen_states(world, rows, horizon=HORIZON, seed=seed, sampling=replace(chosen, state_temperature=heat))
            for heat in (0.0, 1.0)
        )
        away = bodies.distance(likeliest, truth)
        timed = time_steps(world, steps=steps, sampling=chosen)
        numbers[str(k)] = {
            **{f"error_{step}": away[:, step - 1][there[:, step - 1]].mean() for step in (8, HORIZON)},
            "overlapping": overlapping(likeliest),
            "overlapping_drawn": overlapping(drawn),
            "simulate_ms": timed["parts_ms"].get("simulate"),
            "step_ms": timed["step_ms"]["p50"],
        }
    return numbers
