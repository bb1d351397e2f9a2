"""How fast the stages of a world in the making train on this machine.

``python -m tests.benchmarks.training_speed --world W [--json F]``, where ``train.make`` made W with ``--minutes``. A
training is run for a hundred updates, and the later ones are timed, when every episode has been read.

``training.tokenizer.updates_per_s``, ``training.dynamics.updates_per_s``: of the same recipe, on the same recording.
``training.dynamics.predicted_steps_per_s``: steps whose ids are learned, all but the first of each window.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from train.making import sources
from train.making.plan import Plan
from train.making.runner import alone_in
from train.making.stages import WITH_STATE, Making, windows
from train.making.trial import again


def measure(out: Path) -> dict[str, float]:
    """Raises ValueError where nothing was made, StageError where a training fails."""
    work = out / "making"
    plan = Plan.load(work)
    if plan is None or "dynamics" not in plan.speeds:
        raise ValueError(f"{out} was not made by train.make with --minutes: name one that was")
    size = plan.options["size"] or "small"
    options = argparse.Namespace(**plan.options, out=out)
    with alone_in(work):
        making = Making(source=sources.find(options, work, size), size=size, work=work, out=out).fitted()
        pace = {name: again(making, name) for name in ("tokenizer", "dynamics")}
    data = windows("dynamics", size)
    most = WITH_STATE if making.source.state else data["num_blocks"]
    blocks = min(most, making.blocks or most)
    steps = data["batch_size"] * (blocks - 1)
    numbers = {f"training.{name}.updates_per_s": 1 / seconds for name, seconds in pace.items()}
    return numbers | {"training.dynamics.predicted_steps_per_s": steps / pace["dynamics"]}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--world", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    try:
        numbers = measure(asked.world)
    except (ValueError, RuntimeError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    for name, value in numbers.items():
        print(f"{name:44} {value:.3g}")
    if asked.json:
        asked.json.write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
