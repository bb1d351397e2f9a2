"""From nothing to a world that can be shipped, in one command: ``python -m train.release --size cpu --out work``.

A world's recipe says by size which stages lead there: it is recorded, tokenizer, dynamics and what else it has are
trained, exported and evaluated on held-out episodes. Then the model card is written. Every stage is resumable: given
again, the same command goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from train.making.card import model_card
from train.making.runner import StageError, alone_in, run
from train.worlds.contract import Recipe, Stage
from train.worlds.registry import names, recipe


def stages(world: Recipe, size: str, work: Path, seed: int) -> list[Stage]:
    """Raises ValueError for a size that the world has no stages for."""
    if size not in world.release:
        sizes = ", ".join(world.release) or "none at all"
        raise ValueError(f"this world is released in other sizes than {size!r}: {sizes}")
    return world.release[size](work, seed)


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
    try:
        with alone_in(chosen.out):
            run(plan)
    except StageError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    except (RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    command = f"python -m train.release --world {name} --size {chosen.size} --seed {chosen.seed}"
    figures = json.loads((chosen.out / "evaluation.json").read_text(encoding="utf-8"))
    about = world.card.rstrip() or f"# {world.schema.name}"
    card = model_card(about, plan, command, figures, chosen.out)
    (chosen.out / "world" / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    print(f"== finished: {chosen.out / 'world'} is a world folder; python -m demo --world {chosen.out / 'world'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
