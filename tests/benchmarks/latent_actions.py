"""Whether the latent actions that were learned from Pong's video are what the player did.

``python -m tests.benchmarks.latent_actions --making W/making [--json FILE]``, where W was made by
``python -m train.make --env ALE/Pong-v5 --actions latent --out W``.

``probe``: over held-out episodes, how often the code alone names what the true action did to the player's own paddle
in that step: up, down, or nothing; each code stands for what it mostly meant in the training episodes, which is what a
linear probe of one-hot codes is. ``commonest`` is what the commonest effect alone would get. ``codes_used`` counts
those of at least a hundredth of all steps. ``inferred_against_shuffled_db`` and ``other_episode_agreement`` are as
``compare`` in `train/modules/latent_actions.py` finds them: the latter asks whether a code does in another episode what
it is named for, which a code that describes its picture does not.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from train.data.episode_store import EpisodeStore
from train.label_actions import read_module, settle, some_steps
from train.modules.latent_actions import compare, figures

GREEN, NEAR = (92, 186, 92), 30  # the player's own paddle, on the right
MOVED = 0.6  # pixels in a step
BARS = {"probe": 0.8, "codes_used": 6, "inferred_against_shuffled_db": 1.0, "other_episode_agreement": 0.5}


def effects(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of uint8 pictures (1 + n, H, W, 3), one a step: 0 up, 1 nothing, 2 down (n,), and where that is seen (n,)."""
    paddle: np.ndarray = np.all(np.abs(frames.astype(int) - GREEN) < NEAR, axis=-1)
    size = paddle.sum((1, 2))
    height = (paddle.sum(2) * np.arange(paddle.shape[1])).sum(1) / np.maximum(size, 1)
    moved = np.diff(height)
    return 1 + (moved > MOVED) - (moved < -MOVED), (size[1:] > 3) & (size[:-1] > 3)


def counted(recording: EpisodeStore, labelled: EpisodeStore, split: str, codes: int) -> np.ndarray:
    """How often each code had each effect, (codes, 3)."""
    table, r = np.zeros((codes, 3), int), recording.schema.frames_per_step
    for index in recording.split(split):
        effect, seen = effects(recording.read(index).frames[::r])
        actions = labelled.read(index).actions
        assert actions is not None
        seen[0] = False  # nothing moved before the first step
        np.add.at(table, (actions[seen, 0].astype(int), effect[seen]), 1)
    return table


def measure(making: Path) -> dict[str, Any]:
    recording, labelled = EpisodeStore(making / "recording"), EpisodeStore(making / "labelled")
    module = read_module(making / "runs/latent_actions/last.ckpt")
    count = module.model.num_codes
    train = counted(recording, labelled, "train", count)
    held = counted(recording, labelled, "test" if recording.split("test") else "validation", count)
    settle(module, recording)
    compared = compare(module.model, *some_steps(module, recording, "test", 512))
    codes = torch.from_numpy(np.repeat(np.arange(count), held.sum(1)))
    return {
        "probe": float(held[np.arange(count), train.argmax(1)].sum() / held.sum()),
        "commonest": float(held.sum(0).max() / held.sum()),
        **figures(codes, count),
        "inferred_against_shuffled_db": float(compared.inferred - compared.shuffled),
        "other_episode_agreement": float(compared.agreement),
        "table": held.tolist(),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--making", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    asked = parser.parse_args()
    numbers = measure(asked.making)
    for name, value in numbers.items():
        bar = f"(bar {BARS[name]})" if name in BARS else ""
        print(f"{name:30} {value:.3g} {bar}" if name != "table" else f"{name:30} {value}")
    if asked.json:
        asked.json.write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    return 0 if all(numbers[name] >= bar for name, bar in BARS.items()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
