"""A world goes on learning from what a policy does outside: it is recorded, and learned beside all that was before.

As in Dyna (Sutton 1991) and World Models (arXiv:1803.10122, section 5): what a policy does is not what was recorded
first, and a world is only right where it has been.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import yaml

from train.data.episode_store import EpisodeStore
from train.worlds.contract import Stage

SEED = 1_000_000  # of a round's recording beyond the one before, so that no episode is recorded twice
_SLOWER = 0.5  # of the learning rate that the world was made by


@dataclass(frozen=True, kw_only=True)
class Round:
    """One round of a world at ``out`` that ``train.make`` made: ``episodes`` that ``policy`` plays, ``updates``."""

    out: Path
    number: int
    policy: Path
    episodes: int
    updates: int

    @property
    def making(self) -> Path:
        return self.out / "making"

    @property
    def work(self) -> Path:
        return self.making / f"rounds/{self.number}"

    @property
    def before(self) -> Path:
        """Where the tokens and the dynamics of the round before lie."""
        return self.making if self.number == 1 else self.making / f"rounds/{self.number - 1}"

    @property
    def world(self) -> Path:
        """The world that comes of it."""
        return self.work / "world"

    @property
    def recording(self) -> Path:
        return self.work / "recording"

    def record(self) -> Stage:
        """Raises ValueError for a world that was not made of a simulator."""
        settings = EpisodeStore(self.making / "recording").settings
        if "world" not in settings or not (self.making / "plan.json").is_file():
            raise ValueError(f"{self.out} was not made of an environment by train.make: nothing can be recorded for it")
        size = settings["resolution"]
        told = ["--resolution", str(size) if isinstance(size, int) else "x".join(map(str, size))]
        told += ["--steps", str(settings["steps"]), "--seed", str(settings["seed"] + SEED * self.number)]
        told += ["--world", settings["world"], "--policy", str(self.policy), "--episodes", str(self.episodes)]
        return self._stage("record", "train.record", *told, "--out", str(self.recording))

    def learn(self) -> list[Stage]:
        """What follows when it is recorded."""
        tokens, run = self.work / "tokens", self.work / "dynamics"
        config = yaml.safe_load((self.making / "runs/dynamics/config.yaml").read_text(encoding="utf-8"))
        about = json.loads((self.out / "world.json").read_text(encoding="utf-8"))
        own, data = config["model"]["init_args"], config["data"]["init_args"]
        store = EpisodeStore(self.recording)
        lengths = sorted(len(store.span(i, "train")) for i in store.split("train"))
        if not lengths:
            raise ValueError(f"none of the episodes in {self.recording} is for training: record more, by --collect")
        given = {
            "seed_everything": config["seed_everything"] + self.number,
            "trainer.default_root_dir": run,
            "trainer.val_check_interval": max(1, min(self.updates, config["trainer"]["val_check_interval"])),
            "model.init_args.tokens": tokens,
            "model.init_args.config": json.dumps(about["dynamics"]),
            "model.init_args.start_from": self._last(self.before),
            "model.init_args.lr": _SLOWER * own["lr"],
            "model.init_args.total_steps": self.updates,
            "data.init_args.num_blocks": max(2, min(data["num_blocks"], lengths[len(lengths) // 4])),
        }
        told = [part for name, value in given.items() for part in (f"--{name}", str(value))]
        made = ["--config", str(self.making / "runs/dynamics/config.yaml"), "--resume", "auto"]
        tokenizer, recipe = str(self.making / "tokenizer"), store.settings["world"]
        kinds = ["--recording", str(self.recording), "--tokenizer", tokenizer, "--older", str(self.before / "tokens")]
        parts = ["--tokenizer", tokenizer, "--tokens", str(tokens), "--dynamics", str(self._last(self.work))]
        return [
            self._stage("tokenize", "train.tokenize", *kinds, "--out", str(tokens)),
            self._stage("dynamics", "train", "fit", *made, *told),
            self._stage("export", "train.export", "--world-recipe", recipe, *parts, "--out", str(self.world)),
        ]

    def _last(self, work: Path) -> Path:
        """The dynamics' checkpoint of a round, or of the world itself."""
        return (work / "runs/dynamics" if work == self.making else work / "dynamics") / "last.ckpt"

    def _stage(self, name: str, *command: str) -> Stage:
        proof = self.work / "done" / name
        return Stage(name=f"{name}, round {self.number}", proof=proof, command=command)
