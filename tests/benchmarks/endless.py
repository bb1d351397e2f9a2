"""Plays a world for very long: does memory stay flat, how fast is it, and what does the last picture show?

``python tests/benchmarks/endless.py --world tabletop --steps 10000 [--json FILE] [--picture FILE.png]``
"""

from __future__ import annotations

import argparse
import json
import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from worldmodel.engines.choice import ENGINES
from worldmodel.world import World

_PAGE_MB = os.sysconf("SC_PAGE_SIZE") / 2**20


@dataclass(frozen=True, kw_only=True)
class Endurance:
    """memory_warm_mb is the largest resident size during the second tenth of the steps, memory_mb during the last;
    p99_warm_ms and p99_ms what 99 of 100 of their steps stay below.

    first and last are pictures, uint8 (H, W, 3).
    """

    steps: int
    steps_per_s: float
    memory_warm_mb: float
    memory_mb: float
    p99_warm_ms: float
    p99_ms: float
    first: np.ndarray
    last: np.ndarray

    @property
    def growth(self) -> float:
        """Share by which memory grew after warming up; below 0 where it shrank."""
        return self.memory_mb / self.memory_warm_mb - 1


def resident_mb() -> float:
    """This process's resident memory (Linux)."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * _PAGE_MB


def endure(world: World, steps: int, *, seed: int = 0, upsample: bool = False) -> Endurance:
    """Random actions, each held for a while as people do, in one scene that is never reset."""
    generator = torch.Generator().manual_seed(seed)
    rollout = world.start(seed=seed, upsample=upsample)
    first, action, memory, times = rollout.frames[0, -1].numpy(), None, [], np.zeros(steps)
    for t in range(steps):
        if t % 8 == 0:
            action = world.actions.sample(1, generator=generator) if world.actions else None
        begin = time.perf_counter()
        rollout.step(action)
        times[t] = 1000 * (time.perf_counter() - begin)
        if t % 10 == 0:
            memory.append(resident_mb())
    tenth = max(1, len(memory) // 10)
    return Endurance(
        steps=steps,
        steps_per_s=1000 / times.mean(),
        p99_warm_ms=float(np.percentile(times[steps // 10 : steps // 5], 99)),
        p99_ms=float(np.percentile(times[-(steps // 10) :], 99)),
        memory_warm_mb=max(memory[tenth : 2 * tenth]),
        memory_mb=max(memory[-tenth:]),
        first=first,
        last=rollout.frames[0, -1].numpy(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="tabletop")
    parser.add_argument("--steps", type=int, default=10_000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--engine", choices=ENGINES, default="torch")
    parser.add_argument("--upsample", action="store_true")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--picture", type=Path, help="the first picture beside the last")
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    found = endure(World.from_pretrained(chosen.world, engine=chosen.engine), chosen.steps, upsample=chosen.upsample)
    figures = {name: value for name, value in asdict(found).items() if name not in ("first", "last")}
    figures["growth"] = found.growth
    print(json.dumps(figures, indent=1))
    if chosen.json:
        chosen.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    if chosen.picture:
        from matplotlib.image import imsave

        imsave(chosen.picture, np.concatenate([found.first, found.last], 1))


if __name__ == "__main__":
    main()
