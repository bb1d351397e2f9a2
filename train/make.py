"""Your own world in one command: ``python -m train.make --env ALE/Pong-v5 --out worlds/pong``.

From an environment (``--env``), a folder of clips (``--videos``), a dataset (``--lerobot``, ``--minari``), a recording
(``--recording``) or a world that has a recipe (``--world``). It says what it found, measures how fast this machine is,
says what it will make and how long that takes, and shares ``--minutes`` out among the stages. Given again, the same
command goes on where it was stopped. At the end there is a world folder, a report with pictures, and a verdict.
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path

from train.making import sources
from train.making.card import model_card
from train.making.plan import TRAININGS, Plan, duration, share_out
from train.making.runner import StageError, alone_in, run
from train.making.stages import AMOUNTS, SIZES, Making
from train.making.trial import SAMPLE, again, measure
from train.worlds.gym_world import add_environment_options

MINUTES = 60.0
LONG = 600.0  # seconds of a training before which its speed is measured again
SOURCES = ("env", "videos", "lerobot", "minari", "recording", "world")


def make(chosen: argparse.Namespace, command: str) -> None:
    """All of it. Raises ValueError, ImportError, RuntimeError and OSError with a sentence that says how to mend it."""
    out: Path = chosen.out
    work, cuda = out / "making", on_cuda()
    options = {name: value for name, value in vars(chosen).items() if name not in ("out", "look")}
    plan = Plan.load(work) or Plan(options=options)
    if plan.options != options:
        changed = sorted(name for name in options if plan.options.get(name) != options[name])
        was = ", ".join(f"--{name.replace('_', '-')} {plan.options.get(name)}" for name in changed)
        raise ValueError(f"{out} holds a world that was begun with {was}: give that again, or choose another --out")
    size = chosen.size or ("base" if cuda else "small")
    with alone_in(work):
        source = sources.find(chosen, work, size)
        print("\n".join(source.said), flush=True)
        if chosen.look:
            return
        plan.save(work)
        trainer = "gpu" if cuda else "cpu"
        making = Making(source=source, size=size, work=work, out=out, seed=chosen.seed, trainer=trainer)
        wanted = None if size == "tiny" else 60 * chosen.minutes
        if not plan.amounts:
            settle(making, plan, wanted)
        finish(making, plan, wanted, command)


def settle(making: Making, plan: Plan, wanted: float | None) -> None:
    """Decides how much of everything is made: by size, or so that it fills ``wanted`` seconds by what is measured."""
    source, work = making.source, making.work
    usual = dict(AMOUNTS[making.size])
    if wanted is None:
        plan.amounts = usual
        plan.save(work)
        return
    sample = min(SAMPLE, usual["record"])
    if source.command is not None:
        first = making.stages(usual | {"record": sample})[0]
        run([replace(first, name="sample", proof=work / "done/sample")], plan.keeper(work))
    print("== measuring how fast this machine is", flush=True)
    begun = time.monotonic()
    speeds = measure(making.fitted())
    if source.counted:
        speeds = replace(speeds, episode=max(0.2 * plan.gone, plan.gone - speeds.start) / sample)
    plan.spent["measure"] = time.monotonic() - begun
    plan.speeds = asdict(speeds)
    most = max(sample, making.most_episodes)
    plan.amounts, plan.expected = share_out(wanted - plan.gone, speeds, most, sample)
    plan.save(work)


def finish(making: Making, plan: Plan, wanted: float | None, command: str) -> None:
    """Runs what is left of all stages, and says how the world turned out."""
    names = [stage.name for stage in making.stages(plan.amounts)]
    for name in names if wanted is not None else ():
        unit = "episodes" if name == "record" else "updates"
        amount = f"{plan.amounts[name]} {unit}" if name in plan.amounts else ""
        print(f"  {name:<18}{amount:<16}{duration(plan.expected.get(name, 0.0)):>8}")
    if wanted is not None:
        print(f"  {duration(plan.gone + plan.left)} in all, {duration(plan.left)} left", flush=True)
    for name in names:
        fitted = making if name == "record" else making.fitted()
        if name in TRAININGS and wanted is not None and not fitted.run(name).exists():
            begun = time.monotonic()
            pace = again(fitted, name) if plan.expected[name] > LONG else None
            plan.spent["measure"] += time.monotonic() - begun
            plan.refill(name, wanted, making.work, pace)
        run([stage for stage in fitted.stages(plan.amounts) if stage.name == name], plan.keeper(making.work))
    figures = json.loads((making.work / "evaluation.json").read_text(encoding="utf-8"))
    about = f"# {making.source.name}\n\n" + "\n".join(f"* {line}" for line in making.source.said)
    card = model_card(about, making.fitted().stages(plan.amounts), command, figures, making.work)
    (making.out / "MODEL_CARD.md").write_text(card, encoding="utf-8")
    print(f"\n{making.out} is a world of {making.source.name}, made in {duration(plan.gone)}")
    print("\n".join(figures.get("verdict", [])))
    print(f"pictures: {making.out / 'report/index.html'}")
    print(f"play it:  python -m demo --world {making.out}")
    print(f'step it:  gymnasium.make("worldmodel:WorldModel-v0", world="{making.out}")')


def on_cuda() -> bool:
    import torch

    return torch.cuda.is_available()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.make", description=__doc__)
    source = parser.add_argument_group("what it is made from").add_mutually_exclusive_group(required=True)
    source.add_argument("--env", help="a Gymnasium environment: its id, or my_module:MyEnv-v0")
    source.add_argument("--videos", help="a folder of clips or of pictures")
    source.add_argument("--lerobot", help="a LeRobotDataset v3: a folder, or owner/name on the Hugging Face hub")
    source.add_argument("--minari", help="a Minari dataset: its id or its folder")
    source.add_argument("--recording", help="a folder that train.record or an import wrote")
    source.add_argument("--world", help="a world that has a recipe: its name, or my_module:RECIPE")
    parser.add_argument("--out", type=Path, required=True, help="the world's folder; may hold an unfinished one")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="to share out among all stages")
    parser.add_argument("--size", choices=SIZES, help="of the networks: small on a CPU, base on a GPU; tiny is a trial")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--resolution", help="pixels, or HEIGHTxWIDTH, in multiples of 8")
    parser.add_argument(
        "--actions", choices=("own", "latent", "none"), default="own",
        help="own: the source's, or latent ones where there are none; latent: from its pictures; none: on by itself",
    )  # fmt: skip
    parser.add_argument("--look", action="store_true", help="say what is found, and stop")
    played = parser.add_argument_group("of an environment")
    add_environment_options(played)
    played.add_argument("--steps", type=int, default=128, help="most steps of a recorded episode")
    clips = parser.add_argument_group("of clips and datasets")
    clips.add_argument("--fps", type=int, help="frames a second that are kept of a video")
    clips.add_argument("--frames-per-step", type=int, help="frames that one step shows")
    clips.add_argument("--fit", choices=("crop", "letterbox"), default="crop", help="for pictures of another aspect")
    clips.add_argument("--captions", help="a csv or parquet table of file and caption; NAME.txt beside a clip is read")
    clips.add_argument("--camera", help="the one to read of several")
    chosen = parser.parse_args(arguments)
    if chosen.minutes <= 0 or chosen.steps < 2:
        parser.error("--minutes must be positive and --steps at least 2")
    command = shlex.join([parser.prog, *(sys.argv[1:] if arguments is None else arguments)])
    try:
        make(chosen, command)
    except StageError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.code
    except (ValueError, ImportError, RuntimeError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("stopped; the same command goes on from here", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
