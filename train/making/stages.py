"""From a recording to a world that can be played: which commands, in which order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import yaml

from train.data.episode_store import EpisodeStore
from train.making.sources import Source
from train.worlds.contract import Stage

CONFIGS = Path(__file__).parents[1] / "configs"
LONGEST = 24  # latent frames of a training window
WITH_STATE = 12  # the same where a state remembers
LEAST_SEEN = 20  # times that a code must be in training episodes, to be said at all
SIZES = ("tiny", "small", "base")
KEPT = {"tiny": 1.0, "small": 3.5, "base": 8.0}  # gigabytes of frames that a training keeps in memory
AMOUNTS = {  # most episodes, and updates where no time is given
    "tiny": {"record": 24, "latent actions": 20, "tokenizer": 40, "dynamics": 40},
    "small": {"record": 600, "latent actions": 2000, "tokenizer": 6000, "dynamics": 6000},
    "base": {"record": 10000, "latent actions": 10000, "tokenizer": 40000, "dynamics": 40000},
}


def windows(kind: str, size: str) -> dict[str, Any]:
    """What a training's configuration says of its data."""
    text = (CONFIGS / kind / f"pixels_{size}.yaml").read_text(encoding="utf-8")
    return yaml.safe_load(text)["data"]["init_args"]


@dataclass(frozen=True, kw_only=True)
class Making:
    """A world in the making.

    work: where recording, tokens and runs lie. out: the world's own folder. trainer: overlay of ``configs/trainer``.
    blocks: most latent frames of a training window, where episodes are short.
    """

    source: Source
    size: str
    work: Path
    out: Path
    seed: int = 0
    trainer: str = "cpu"
    blocks: int | None = None

    @property
    def recording(self) -> Path:
        """What is trained on: with latent actions where the source has none."""
        return self.work / "labelled" if self.source.latent else self.source.recording

    @property
    def tokenizer(self) -> Path:
        return self.work / "tokenizer"

    @property
    def tokens(self) -> Path:
        return self.work / "tokens"

    def fitted(self) -> Making:
        """With windows no longer than the recorded episodes are. Raises ValueError where they have no next step."""
        store = EpisodeStore(self.source.recording)
        lengths = sorted(len(store.span(i, split)) for split in ("train", "validation") for i in store.split(split))
        if lengths[len(lengths) // 2] < 2:
            raise ValueError(f"most episodes of {store.path} end within a step: no next step can be learned from them")
        most = max(2, lengths[len(lengths) // 4])  # a shorter episode is in no window
        longest = WITH_STATE if self.source.state else LONGEST
        return replace(self, blocks=most) if most < longest else self

    @property
    def most_episodes(self) -> int:
        """As many as :data:`AMOUNTS` says, if their frames can be kept in memory: others are read anew each time."""
        store = EpisodeStore(self.source.recording)
        counts = [store.num_frames(i) for split in ("train", "validation", "test") for i in store.split(split)]
        each = 3 * prod(store.size) * sum(counts) / len(counts)
        return max(1, min(AMOUNTS[self.size]["record"], int(1e9 * KEPT[self.size] / each)))

    def run(self, name: str) -> Path:
        return self.work / "runs" / name.replace(" ", "_")

    def stages(self, amounts: Mapping[str, int]) -> list[Stage]:
        """All of them. Each can be given again and then goes on where it was stopped."""
        source = self.source
        stages = []
        if source.command is not None:
            about = f"{amounts['record']} episodes" if source.counted else "all of it"
            command = source.command(amounts["record"] if source.counted else None)
            stages.append(self._stage("record", *command, about=about))
        if source.latent:
            hide = ["--hide-actions"] if source.hidden else []
            stages += [
                self._fit("latent actions", "latent_actions", amounts, data__recording=source.recording),
                self._stage(
                    "label actions",
                    "train.label_actions",
                    *hide,
                    about="what each step did",
                    recording=source.recording,
                    checkpoint=self.last("latent actions"),
                    out=self.recording,
                ),
            ]
        schema: dict[str, Any] = {"model__schema": self.recording} if source.state else {}
        seldom: dict[str, Any] = {} if source.state else {"least-seen": LEAST_SEEN}
        from_tokens: dict[str, Any] = {"model__tokens": self.tokens, "model__tokenizer_path": self.tokenizer}
        if source.state:  # states alone cost little, and all else follows them
            blocks = min(4, self.blocks or LONGEST)
            from_tokens |= {"data__beside": self.tokens, "data__beside_blocks": blocks, "data__beside_count": 16}
            from_tokens |= {"model__config.memory": 0}
            own = windows("dynamics", self.size)["num_blocks"]
            from_tokens["data__num_blocks"] = min(own, WITH_STATE)
        return [
            *stages,
            self._fit("tokenizer", "tokenizer", amounts, data__recording=self.recording, **schema),
            self._stage(
                "export tokenizer", "train.export", tokenizer=self.last("tokenizer"), out=self.tokenizer
            ),
            self._stage(
                "tokenize", "train.tokenize", recording=self.recording, tokenizer=self.tokenizer, out=self.tokens,
                **seldom,
            ),
            self._fit("dynamics", "dynamics", amounts, **from_tokens),
            self._stage(
                "export world", "train.export", *source.exported(self.work), tokenizer=self.tokenizer,
                tokens=self.tokens, dynamics=self.last("dynamics"), out=self.out,
            ),
            self._stage(
                "evaluate", "train.evaluate", "--quick", world=self.out, recording=self.recording,
                split=self.held_out, episodes=8, seed=self.seed, json=self.work / "evaluation.json",
                report=self.out / "report",
            ),
        ]  # fmt: skip

    @property
    def held_out(self) -> str:
        """The split that no training sees. A small recording has none for tests."""
        begun = (self.source.recording / "meta/episodes").is_dir()
        return "test" if begun and EpisodeStore(self.source.recording).split("test") else "validation"

    def last(self, name: str) -> Path:
        """A training's checkpoint."""
        return self.run(name) / "last.ckpt"

    def _stage(self, name: str, *command: str, about: str = "", **options: object) -> Stage:
        given = [part for key, value in options.items() for part in (f"--{key}", str(value))]
        return Stage(
            name=name, proof=self.work / "done" / name.replace(" ", "_"), command=(*command, *given), about=about
        )

    def _fit(self, name: str, kind: str, amounts: Mapping[str, int], **given: object) -> Stage:
        config, steps = CONFIGS / kind / f"pixels_{self.size}.yaml", amounts[name]
        command = ["train", "fit", "--config", str(config), "--config", str(CONFIGS / f"trainer/{self.trainer}.yaml")]
        command += ["--seed_everything", str(self.seed), "--model.init_args.total_steps", str(steps)]
        command += ["--trainer.default_root_dir", str(self.run(name)), "--resume", "auto"]
        if self.size == "tiny":
            command += ["--checkpoint_every_n_steps", "10", "--trainer.log_every_n_steps", "10"]
        if self.blocks is not None:  # of short episodes, shorter windows than is usual
            own = windows(kind, self.size)
            if kind == "dynamics":
                given["data__num_blocks"] = min(own["num_blocks"], self.blocks)
            else:
                given["data__num_steps"] = max(1, min(own["num_steps"], self.blocks // 4))
        if kind != "dynamics":
            given["data__cache_gigabytes"] = KEPT[self.size]
        for key, value in given.items():
            command += [f"--{key.replace('__', '.init_args.')}", str(value)]
        return self._stage(name, *command, about=f"{steps} updates (`{config.parent.name}/{config.name}`)")
