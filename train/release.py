"""From nothing to a world that can be shipped, in one command: ``python -m train.release --size cpu --out work``.

A world's recipe says by size which stages lead there: it is recorded, tokenizer, dynamics and what else it has are
trained, exported and evaluated on held-out episodes. Then the model card is written. Every stage is resumable: given
again, the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from train.worlds.contract import Recipe, Stage
from train.worlds.registry import names, recipe


def stages(world: Recipe, size: str, work: Path, seed: int) -> list[Stage]:
    """Raises ValueError for a size that the world has no stages for."""
    if size not in world.release:
        sizes = ", ".join(world.release) or "none at all"
        raise ValueError(f"this world is released in other sizes than {size!r}: {sizes}")
    return world.release[size](work, seed)


def hours(work: Path, name: str) -> float:
    """Training hours that a run's metrics tell of."""
    path = work / "runs" / name / "metrics.jsonl"
    return json.loads(path.read_text(encoding="utf-8").splitlines()[-1])["hours"] if path.is_file() else 0.0


def model_card(world: Recipe, plan: Sequence[Stage], command: str, work: Path) -> str:
    """The card that travels with the weights: what they are, how they came about, how good they are."""
    figures = json.loads((work / "evaluation.json").read_text(encoding="utf-8"))
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    made = [
        f"* {stage.name}: {stage.about}" + (f", {spent:.2f} h" if (spent := hours(work, stage.name)) else "")
        for stage in plan
        if stage.about
    ]
    rows = [
        f"| {part}.{key} | {value:.4g} |"
        for part, values in figures.items()
        if isinstance(values, dict)
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    lines = [
        world.card.rstrip() or f"# {world.schema.name}",
        "",
        "## How it was made",
        "",
        f"`{command}` on {device}, that is:",
        "",
        *made,
        "",
        "## Held-out figures",
        "",
        f"`python -m {' '.join(plan[-1].command)}`",
        "",
        "| key | value |",
        "|---|---|",
        *rows,
        "",
    ]
    return "\n".join(lines)


def released() -> str:
    """The first world that has a release, for those who name none."""
    return next((name for name in names() if recipe(name).release), "")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.release", description=__doc__)
    parser.add_argument("--world", help="a world's name, or my_package.my_world:RECIPE; the bundled one by default")
    parser.add_argument("--size", default="cpu", help="cpu, gpu, or tiny to try the plumbing, as the world has them")
    parser.add_argument("--out", type=Path, default=Path("release"), help="folder for everything that is made")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    name = chosen.world or released()
    try:
        world = recipe(name)
        plan = stages(world, chosen.size, chosen.out, chosen.seed)
    except (ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    chosen.out.mkdir(parents=True, exist_ok=True)
    for stage in plan:
        if stage.proof.exists():
            print(f"== {stage.name}: done already")
            continue
        print(f"== {stage.name}: python -m {' '.join(stage.command)}", flush=True)
        code = subprocess.run([sys.executable, "-m", *stage.command]).returncode
        if code:
            print(
                f"error: {stage.name} stopped with exit code {code}; the same command goes on from here",
                file=sys.stderr,
            )
            return code
        stage.proof.touch()
    command = f"python -m train.release --world {name} --size {chosen.size} --seed {chosen.seed}"
    card = model_card(world, plan, command, chosen.out)
    (chosen.out / "world" / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    print(f"== finished: {chosen.out / 'world'} is a world folder; python -m demo --world {chosen.out / 'world'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
