"""How fast a world is on this machine."""

from __future__ import annotations

import torch

from train.measure.measurement import Measurement
from worldmodel.bench import time_steps
from worldmodel.sampling import Sampling
from worldmodel.world import World


def measure_speed(world: World, *, steps: int, sampling: Sampling) -> Measurement:
    """One row's step and its parts with the threads torch has now (see ``time_steps``), upsampled if the world can."""
    made = time_steps(world, steps=steps, sampling=sampling, upsample=world.upsampler is not None)
    r, parts = world.tokenizer.frames_per_step, made["parts_ms"]
    about = {"threads": torch.get_num_threads(), "device": str(world.device), "batch": 1, "steps": steps}
    per_frame = {f"{name}_ms_per_frame": parts[name] / r for name in ("decode", "upsample") if name in parts}
    return Measurement({**about, **made, **per_frame, "steps_per_s": made["frames_per_s"] / r})
