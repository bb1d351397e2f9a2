"""From nothing to the bundled Tabletop, by size: lengths of training and the trainer's overlay. The models are those of
the configs, so whatever comes out loads everywhere."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from train.worlds.contract import Stage

NAME = "tabletop"
OWN = Path(__file__).parent / "configs"
CONFIGS = Path(__file__).parents[2] / "configs"


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


def stages(size: Size, work: Path, seed: int) -> list[Stage]:
    """In order; each can be given again and then goes on where it was stopped."""
    recording, simulated, tokens, tokenizer = (work / n for n in ("recording", "simulated", "tokens", "tokenizer"))
    world, runs = work / "world", work / "runs"

    def fit(name: str, configs: list[Path], steps: int, about: str, **given: Path) -> Stage:
        command = ["train", "fit"]
        for path in (*configs, CONFIGS / "trainer" / f"{size.trainer}.yaml"):
            command += ["--config", str(path)]
        command += ["--seed_everything", str(seed), "--model.init_args.total_steps", str(steps)]
        command += ["--trainer.default_root_dir", str(runs / name), "--resume", "auto"]
        for key, value in given.items():
            command += [f"--{key.replace('__', '.init_args.')}", str(value)]
        about = f"{about}, {steps} steps ({size.trainer} trainer)"
        return Stage(name=name, proof=runs / name / f"finished-{steps}", command=tuple(command), about=about)

    def dynamics(*stage: str) -> list[Path]:
        return [OWN / "dynamics.yaml", *(CONFIGS / "dynamics" / f"stage_{name}.yaml" for name in stage)]

    return [
        Stage(
            name="record",
            proof=recording / "finished",
            command=(
                "train.record", "--world", NAME, "--episodes", str(size.episodes), "--steps", str(size.episode_steps),
                "--seed", str(seed), "--out", str(recording),
            ),
            about=f"{size.episodes} episodes of at most {size.episode_steps} steps (seed {seed}; 90 % training, "
            "5 % validation, 5 % test)",
        ),
        Stage(
            name="simulate",
            proof=simulated / "index.parquet",
            command=(
                "train.tokenize", "--world", NAME, "--simulate", str(size.simulated), "--events", "0.3",
                "--seed", str(seed + 1000), "--out", str(simulated),
            ),
            about=f"{size.simulated} episodes of states alone (seed {seed + 1000})",
        ),
        fit(
            "tokenizer", [CONFIGS / "tokenizer/small.yaml"], size.tokenizer_steps, "pictures to ids and back",
            model__schema=recording, data__recording=recording,
        ),
        Stage(
            name="export tokenizer",
            proof=tokenizer / "tokenizer.safetensors",
            command=("train.export", "--tokenizer", str(runs / "tokenizer/last.ckpt"), "--out", str(tokenizer)),
        ),
        Stage(
            name="tokenize",
            proof=tokens / "index.parquet",
            command=(
                "train.tokenize", "--recording", str(recording), "--tokenizer", str(tokenizer),
                "--text", str(simulated / "text.model"), "--out", str(tokens),
            ),
        ),
        fit("state", dynamics("state"), size.state_steps, "dynamics on states alone", model__tokens=simulated),
        fit(
            "video", dynamics("video", "beside"), size.video_steps, "dynamics on the whole stream",
            model__tokens=tokens, data__beside=simulated,
            model__start_from=runs / "state/last.ckpt", model__tokenizer_path=tokenizer,
        ),
        fit(
            "outcome", dynamics("outcome"), size.outcome_steps, "what reads reward and end from states",
            model__tokens=simulated, model__start_from=runs / "video/last.ckpt",
        ),
        fit(
            "upsampler", [CONFIGS / "upsampler/small.yaml"], size.upsampler_steps, "64x64 to 128x128",
            model__schema=recording, model__tokenizer_path=tokenizer, data__recording=recording,
        ),
        fit(
            "estimator", [CONFIGS / "state_estimator/small.yaml"], size.estimator_steps, "states from pictures",
            model__schema=recording, data__recording=recording,
        ),
        Stage(
            name="export world",
            proof=world / "world.json",
            command=(
                "train.export", "--half", "--tokenizer", str(tokenizer), "--tokens", str(tokens), "--out", str(world),
                "--dynamics", str(runs / "outcome/last.ckpt"), "--upsampler", str(runs / "upsampler/last.ckpt"),
                "--estimator", str(runs / "estimator/last.ckpt"), "--world-recipe", NAME,
            ),
        ),
        Stage(
            name="evaluate",
            proof=work / "evaluation.json",
            command=(
                "train.evaluate", "--world", str(world), "--recording", str(recording), "--split", "test",
                "--json", str(work / "evaluation.json"), "--report", str(work / "report"),
            ),
        ),
    ]  # fmt: skip
