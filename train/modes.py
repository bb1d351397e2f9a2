"""What it costs to decode many ids of a picture at once: ``modes`` in an evaluation, never speed without quality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tokenizer.clip import Episode
from train.measurements import Numbers, measure_rollout
from worldmodel.bench import raster_of, time_steps
from worldmodel.rollout import Sampling
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
            "player_error_32": found.get("player_error_32"),
            "others_error_32": found.get("others_error_32"),
            "step_ms": time_steps(world, steps=steps, sampling=chosen)["step_ms"]["p50"],
        }
    numbers["raster_step_ms"] = time_steps(raster_of(world, world.engine.name), steps=2)["step_ms"]["p50"]
    return numbers
