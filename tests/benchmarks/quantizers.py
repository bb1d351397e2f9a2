"""Quantizers held against each other at equal ids and equal training, and by how predictable their ids are.

``python tests/benchmarks/quantizers.py --recording DIR [--steps 300] [--only fsq_400] [--json F] [--plot F.png]``,
and with ``--losses`` the terms of the training loss, one at a time, in their place.

Every candidate is the small tokenizer without a state, so that ids must carry everything, trained for as many steps
on the same clips. Then a small network, the same for all, learns to predict each latent frame's ids from the two before
and the action; it is scored on held-out episodes in nats a pixel frame and by letting it run on freely for eight
latent frames, decoded, against the recording. ``continuous`` is the ceiling: the same network without a quantizer.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tokenizer.video_tokenizer import VideoTokenizer
from train.data.clips import ClipDataModule
from train.data.episode_store import EpisodeStore
from train.measure.metrics import code_use, error_change, high_band_power, psnr, ssim, static_cells
from train.modules.tokenizer import TokenizerModule

CANDIDATES: dict[str, dict[str, Any]] = {
    "fsq_64": {"kind": "fsq", "levels": (4, 4, 4)},
    "fsq_400": {"kind": "fsq", "levels": (5, 5, 4, 4)},
    "fsq_1920": {"kind": "fsq", "levels": (8, 8, 6, 5)},
    "residual_fsq_625": {"kind": "residual_fsq", "levels": (5, 5), "stages": 2},
    "vq_512": {"kind": "vq", "num_codes": 512},
    "simvq_512": {"kind": "simvq", "num_codes": 512},
    "lfq_512": {"kind": "lfq", "num_codes": 512},
    "continuous": {"kind": "continuous", "dim": 4},
}
_ALONE = {"l1_weight": 0.0, "temporal_weight": 0.0}
LOSSES: dict[str, dict[str, Any]] = {
    "squared": _ALONE,
    "absolute": _ALONE | {"l1_weight": 0.01},
    "temporal": _ALONE | {"temporal_weight": 0.05},
    "laplacian": _ALONE | {"laplacian_weight": 0.03},
    "worst_pixels": _ALONE | {"worst_weight": 0.03},
    "discriminator": _ALONE | {"adversarial_weight": 0.1},
}
HORIZON = 8  # latent frames of a free run


class NextIds(nn.Module):
    """Ids (B, 2, h, w) of two latent frames and the action after them (B,) to logits of the next, (B, codes, h, w)."""

    def __init__(self, codes: int, actions: int, width: int = 64) -> None:
        super().__init__()
        self.embed, self.action = nn.Embedding(codes, width), nn.Embedding(actions, width)
        self.first = nn.Conv2d(2 * width, width, 3, padding=1)
        self.rest = nn.ModuleList(nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        self.out = nn.Conv2d(width, codes, 1)
        self.copy = nn.Parameter(torch.tensor(3.0))  # ids mostly stay

    def forward(self, ids: Tensor, action: Tensor) -> Tensor:
        x = self.first(self.embed(ids).permute(0, 1, 4, 2, 3).flatten(1, 2))
        x = F.gelu(x + self.action(action)[..., None, None])
        for layer in self.rest:
            x = x + F.gelu(layer(x))
        stay = F.one_hot(ids[:, -1], self.embed.num_embeddings).movedim(-1, 1)
        return self.out(x) + self.copy * stay


def train_tokenizer(
    quantizer: dict[str, Any], losses: dict[str, Any], recording: Path, steps: int, cache: Path | None
) -> TokenizerModule:
    """The small tokenizer with this quantizer and these losses; a discriminator joins in after two thirds."""
    torch.manual_seed(0)
    module = TokenizerModule(
        config={"quantizer": quantizer},
        total_steps=steps,
        warmup_steps=30,
        noise_steps=steps // 10,
        adversarial_start=steps * 2 // 3,
        **losses,
    )
    data = ClipDataModule(
        str(recording),
        num_steps=2,
        batch_size=8,
        segmentation=EpisodeStore(recording).has_segmentation,
        cache_folder=None if cache is None else str(cache),
    )
    trainer = L.Trainer(
        accelerator="cpu",
        precision="bf16-mixed",
        max_steps=steps,
        gradient_clip_val=1.0,
        limit_val_batches=0,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(module, data)
    return module.eval()


def predictability(
    tokenizer: VideoTokenizer, train: list[dict[str, Tensor]], test: list[dict[str, Tensor]], steps: int
) -> dict[str, float]:
    """Nats a pixel frame and PSNR after ``HORIZON`` free latent frames, of a network trained on ``train``'s ids."""
    actions = 1 + max(int(e["actions"].max()) for e in train + test)
    torch.manual_seed(0)
    model = NextIds(tokenizer.num_codes, actions)
    optimizer = torch.optim.AdamW(model.parameters(), 3e-3)
    windows = [(e["ids"][t : t + 3], e["actions"][t + 1]) for e in train for t in range(len(e["ids"]) - 2)]
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        chosen = torch.randint(len(windows), (32,), generator=generator).tolist()
        ids, action = torch.stack([windows[i][0] for i in chosen]), torch.stack([windows[i][1] for i in chosen])
        loss = F.cross_entropy(model(ids[:, :2], action), ids[:, 2])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    nats, score = [], []
    with torch.no_grad():
        for e in test:
            ids = e["ids"]
            pairs = torch.stack([ids[:-2], ids[1:-1]], 1)
            nats.append(F.cross_entropy(model(pairs, e["actions"][1:]), ids[2:], reduction="none").sum((1, 2)))
            if len(ids) < HORIZON + 2:
                continue
            past = ids[:2]
            for t in range(HORIZON):
                past = torch.cat([past, model(past[None, -2:], e["actions"][None, t + 1]).argmax(1)])
            r = tokenizer.frames_per_step
            made = tokenizer.decode(past[None])[0, 1 + r :]
            score.append(psnr(made, e["frames"][1 + r : 1 + r * (HORIZON + 1)])[-r:].mean())
    return {
        "nats_per_frame": float(torch.cat(nats).mean() / tokenizer.frames_per_step),
        "rollout_psnr_db": float(torch.stack(score).mean()) if score else float("nan"),
    }


def read(store: EpisodeStore, split: str, most: int) -> list[dict[str, Tensor]]:
    episodes = []
    for index in store.split(split)[:most]:
        episode = store.read(index, resolution=64)
        assert episode.actions is not None
        episodes.append(
            {"frames": torch.from_numpy(episode.frames), "actions": torch.from_numpy(episode.actions)[:, 0]}
        )
    return episodes


@torch.no_grad()
def measure(module: TokenizerModule, episodes: list[dict[str, Tensor]]) -> dict[str, float]:
    """Reconstruction and use of codes on held-out episodes; each gets its ``ids``, if the bottleneck has any."""
    tokenizer, found = module.tokenizer, {"psnr_db": [], "ssim": [], "high_band_ratio": [], "error_change": []}
    changed = still = 0
    for e in episodes:
        video = e["frames"][None].movedim(-1, 2).float() / 255
        out = tokenizer(video)
        made = (out.video[0].clamp(0, 1) * 255).round().byte().movedim(1, -1)
        found["psnr_db"].append(psnr(made, e["frames"]))
        found["ssim"].append(ssim(made, e["frames"]))
        found["high_band_ratio"].append(high_band_power(made) / high_band_power(e["frames"]).clamp_min(1e-9))
        found["error_change"].append(error_change(made, e["frames"]))
        e["ids"] = out.indices[0]
        where = static_cells(e["frames"], tokenizer.grid, tokenizer.frames_per_step)
        still += int(where.sum())
        changed += int((where & (e["ids"][1:] != e["ids"][:-1])).sum())
    figures = {name: float(torch.cat(values).mean()) for name, values in found.items()}
    if tokenizer.num_codes:
        use = code_use(torch.cat([e["ids"].flatten() for e in episodes]), tokenizer.num_codes)
        figures |= {"codes": tokenizer.num_codes, "used": use.used, "perplexity": use.perplexity}
        figures["static_id_change"] = changed / max(1, still)
    return figures


def plot(found: dict[str, dict[str, float]], path: Path) -> None:
    """Reconstruction against predictability, a dot a candidate."""
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 4.5))
    for name, figures in found.items():
        if "nats_per_frame" in figures:
            axes.scatter(figures["nats_per_frame"], figures["psnr_db"])
            axes.annotate(name, (figures["nats_per_frame"], figures["psnr_db"]), fontsize=8)
    if "continuous" in found:
        axes.axhline(found["continuous"]["psnr_db"], ls=":", c="grey")
    axes.set_xlabel("nats a pixel frame, held out (left is more predictable)")
    axes.set_ylabel("PSNR, dB")
    figure.tight_layout()
    figure.savefig(path)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recording", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400, help="of each tokenizer; the predictor gets as many")
    parser.add_argument(
        "--episodes", type=int, default=24, help="held-out ones; the predictor learns from four times as many"
    )
    parser.add_argument("--losses", action="store_true", help="compare losses, on fsq_400")
    parser.add_argument("--only", nargs="*", choices=sorted({**CANDIDATES, **LOSSES}))
    parser.add_argument("--cache", type=Path, help="folder for decoded clips")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    store = EpisodeStore(chosen.recording)
    train, test = read(store, "train", 4 * chosen.episodes), read(store, "test", chosen.episodes)
    found: dict[str, dict[str, float]] = {}
    for name in chosen.only or (LOSSES if chosen.losses else CANDIDATES):
        began = time.perf_counter()
        quantizer, losses = (CANDIDATES["fsq_400"], LOSSES[name]) if chosen.losses else (CANDIDATES[name], {})
        module = train_tokenizer(quantizer, losses, chosen.recording, chosen.steps, chosen.cache)
        found[name] = {"training_s": round(time.perf_counter() - began, 1), **measure(module, test)}
        if module.tokenizer.num_codes and not chosen.losses:
            measure(module, train)
            found[name] |= predictability(module.tokenizer, train, test, chosen.steps)
        del module  # and with it its trainer and a few gigabytes of clips
        gc.collect()
        print(name, json.dumps({k: round(v, 4) for k, v in found[name].items()}), flush=True)
        if chosen.json:
            chosen.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    if chosen.plot:
        plot(found, chosen.plot)


if __name__ == "__main__":
    main()
