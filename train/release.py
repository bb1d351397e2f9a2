"""From nothing to a world that can be shipped, in one command: ``python -m train.release --size cpu --out work``.

It records, trains tokenizer, dynamics (physics first, then pictures), upsampler and state estimator, exports,
evaluates on held-out episodes and writes the model card. Every stage is resumable: given again, the same command
goes on where it was stopped. ``--size`` sets lengths of training and the trainer's overlay; the models are those of
``train/configs``, so whatever comes out loads everywhere.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch

CONFIGS = Path(__file__).parent / "configs"


@dataclass(frozen=True, kw_only=True)
class Size:
    """How much to record (many short episodes: scenes are what is learned from) and how many steps to train."""

    episodes: int
    episode_steps: int
    simulated: int
    trainer: str
    tokenizer_steps: int
    state_steps: int
    video_steps: int
    outcome_steps: int
    upsampler_steps: int
    estimator_steps: int


SIZES = {
    "tiny": Size(
        episodes=24, episode_steps=12, simulated=32, trainer="cpu",
        tokenizer_steps=20, state_steps=5, video_steps=5, outcome_steps=5, upsampler_steps=5, estimator_steps=5,
    ),
    "cpu": Size(
        episodes=2400, episode_steps=24, simulated=6000, trainer="cpu_bf16",
        tokenizer_steps=7000, state_steps=1500, video_steps=3000, outcome_steps=4000, upsampler_steps=1500,
        estimator_steps=4000,
    ),
    "gpu": Size(
        episodes=12000, episode_steps=24, simulated=20000, trainer="gpu",
        tokenizer_steps=40000, state_steps=8000, video_steps=30000, outcome_steps=4000, upsampler_steps=20000,
        estimator_steps=20000,
    ),
}  # fmt: skip


def stages(size: Size, work: Path, seed: int) -> list[tuple[str, Path, list[str]]]:
    """(name, the file that is there when it is done, the command's module and arguments), in order."""
    recording, simulated, tokens, tokenizer = (work / n for n in ("recording", "simulated", "tokens", "tokenizer"))
    world = work / "world"

    def fit(name: str, config: str, steps: int, **given: Path | str) -> tuple[str, Path, list[str]]:
        folder = work / "runs" / name
        command = ["train", "fit", "--config", str(CONFIGS / config)]
        command += ["--config", str(CONFIGS / "trainer" / f"{size.trainer}.yaml"), "--seed_everything", str(seed)]
        command += ["--model.init_args.total_steps", str(steps), "--trainer.default_root_dir", str(folder)]
        command += ["--resume", "auto"]
        for key, value in given.items():
            command += [f"--{key.replace('__', '.init_args.')}", str(value)]
        return name, folder / f"finished-{steps}", command

    return [
        (
            "record",
            recording / "finished",
            [
                "train.record", "--episodes", str(size.episodes), "--steps", str(size.episode_steps),
                "--seed", str(seed), "--out", str(recording),
            ],
        ),
        (
            "simulate",
            simulated / "index.parquet",
            [
                "train.tokenize", "--simulate", str(size.simulated), "--events", "0.3",
                "--seed", str(seed + 1000), "--out", str(simulated),
            ],
        ),
        fit(
            "tokenizer", "tokenizer/small.yaml", size.tokenizer_steps,
            model__schema=recording, data__recording=recording,
        ),
        (
            "export tokenizer",
            tokenizer / "tokenizer.safetensors",
            ["train.export", "--tokenizer", str(work / "runs/tokenizer/last.ckpt"), "--out", str(tokenizer)],
        ),
        (
            "tokenize",
            tokens / "index.parquet",
            [
                "train.tokenize", "--recording", str(recording), "--tokenizer", str(tokenizer),
                "--text", str(simulated / "text.model"), "--out", str(tokens),
            ],
        ),
        fit("state", "dynamics/state.yaml", size.state_steps, model__tokens=simulated, data__tokens=simulated),
        fit(
            "video", "dynamics/video.yaml", size.video_steps,
            model__tokens=tokens, data__tokens=tokens, data__beside=simulated,
            model__start_from=work / "runs/state/last.ckpt", model__tokenizer_path=tokenizer,
        ),
        fit(
            "outcome", "dynamics/outcome.yaml", size.outcome_steps, model__tokens=simulated, data__tokens=simulated,
            model__start_from=work / "runs/video/last.ckpt",
        ),
        fit(
            "upsampler", "upsampler/small.yaml", size.upsampler_steps,
            model__schema=recording, model__tokenizer_path=tokenizer, data__recording=recording,
        ),
        fit(
            "estimator", "state_estimator/small.yaml", size.estimator_steps, model__schema=recording,
            data__recording=recording,
        ),
        (
            "export world",
            world / "world.json",
            [
                "train.export", "--half", "--tokenizer", str(tokenizer), "--tokens", str(tokens), "--out", str(world),
                "--dynamics", str(work / "runs/outcome/last.ckpt"),
                "--upsampler", str(work / "runs/upsampler/last.ckpt"),
                "--estimator", str(work / "runs/estimator/last.ckpt"),
            ],
        ),
        (
            "evaluate",
            work / "evaluation.json",
            [
                "train.evaluate", "--world", str(world), "--recording", str(recording), "--split", "test",
                "--json", str(work / "evaluation.json"), "--report", str(work / "report"),
            ],
        ),
    ]  # fmt: skip


def hours(work: Path, name: str) -> float:
    """Training hours that a run's metrics tell of."""
    path = work / "runs" / name / "metrics.jsonl"
    return json.loads(path.read_text().splitlines()[-1])["hours"] if path.is_file() else 0.0


def model_card(size_name: str, work: Path, seed: int) -> str:
    """The card that travels with the weights: what they are, how they came about, how good they are."""
    size, figures = SIZES[size_name], json.loads((work / "evaluation.json").read_text())
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    rows = [
        f"| {part}.{key} | {value:.4g} |"
        for part, values in figures.items()
        if isinstance(values, dict)
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    lines = [
        "# Tabletop",
        "",
        "A world model of a walled table with two to four bodies, one of them the player's, learned from a MuJoCo",
        "simulation (`train/worlds/tabletop`). 64x64 at 60 frames/s, one action for 4 frames; 128x128 with the",
        "upsampler. Weights: Apache-2.0, trained on nothing but what the code of this repository records.",
        "",
        "## How it was made",
        "",
        f"`python -m train.release --size {size_name} --seed {seed}` on {device} ({size.trainer} trainer), that is:",
        "",
        f"* {size.episodes} recorded episodes of at most {size.episode_steps} steps (seed {seed}; 90 % training,",
        f"  5 % validation, 5 % test) and {size.simulated} episodes of states alone (seed {seed + 1000});",
        f"* tokenizer {size.tokenizer_steps} steps, {hours(work, 'tokenizer'):.2f} h;",
        f"* dynamics on states alone {size.state_steps} steps, {hours(work, 'state'):.2f} h;",
        f"* dynamics on the whole stream {size.video_steps} steps, {hours(work, 'video'):.2f} h;",
        f"* what reads reward and end from states {size.outcome_steps} steps, {hours(work, 'outcome'):.2f} h;",
        f"* upsampler {size.upsampler_steps} steps, {hours(work, 'upsampler'):.2f} h;",
        f"* state estimator {size.estimator_steps} steps, {hours(work, 'estimator'):.2f} h.",
        "",
        "## Held-out figures",
        "",
        f"`python -m train.evaluate --world tabletop --recording {work.name}/recording --split test`",
        "",
        "| key | value |",
        "|---|---|",
        *rows,
        "",
        "## Limits",
        "",
        "It knows this table and nothing else. Collisions in a crowd drift from the simulator's; captions are",
        "obeyed as far as the short training taught them.",
        "",
    ]
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m train.release", description=__doc__)
    parser.add_argument("--size", choices=sorted(SIZES), default="cpu")
    parser.add_argument("--out", type=Path, default=Path("release"), help="folder for everything that is made")
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    chosen.out.mkdir(parents=True, exist_ok=True)
    for name, proof, command in stages(SIZES[chosen.size], chosen.out, chosen.seed):
        if proof.exists():
            print(f"== {name}: done already")
            continue
        print(f"== {name}: python -m {' '.join(command)}", flush=True)
        code = subprocess.run([sys.executable, "-m", *command]).returncode
        if code:
            print(f"error: {name} stopped with exit code {code}; the same command goes on from here", file=sys.stderr)
            return code
        proof.touch()
    card = model_card(chosen.size, chosen.out, chosen.seed)
    (chosen.out / "world" / "MODEL_CARD.md").write_text(card)
    print(f"== finished: {chosen.out / 'world'} is a world folder; python -m demo --world {chosen.out / 'world'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
