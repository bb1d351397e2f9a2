"""Whether a made world stands in for the environment that it was made of.

``python -m tests.benchmarks.made_world --world W [--steps 200] [--json FILE]``: the action space is the original's, the
exported environment passes Gymnasium's ``check_env``, the original's own actions step it, and how fast it goes.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium.utils.env_checker import check_env

from tokenizer.video_tokenizer import read_config
from train.worlds.gym_world import GymWorld


def compare(folder: Path, steps: int) -> dict[str, Any]:
    """Figures of a world folder whose recipe is a ``world.yaml``."""
    recipe = json.loads((folder / "world.json").read_text(encoding="utf-8"))["recipe"]
    original = GymWorld.load(recipe).simulator(read_config(folder)[0].size)
    env = gymnasium.make("worldmodel:WorldModel-v0", world=str(folder), disable_env_checker=True)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        check_env(env.unwrapped, skip_render_check=True)
    space = original.env.action_space
    space.seed(0)
    env.reset(seed=0)
    begun, ended, total = time.monotonic(), 0, 0.0
    for _ in range(steps):
        _, reward, terminated, truncated, _ = env.step(space.sample())
        total += float(reward)
        if terminated or truncated:
            ended += 1
            env.reset()
    seconds = time.monotonic() - begun
    return {
        "environment": str(recipe),
        "action_space": str(space),
        "same_action_space": env.action_space == space,
        "check_env": "passes",
        "warnings": [str(one.message).splitlines()[0] for one in said],
        "steps_per_s": steps / seconds,
        "ended": ended,
        "reward": total,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--world", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    numbers = compare(asked.world, asked.steps)
    for name, value in numbers.items():
        print(f"{name:18} {value}")
    if asked.json:
        asked.json.write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    return 0 if numbers["same_action_space"] else 1


if __name__ == "__main__":
    raise SystemExit(main())
