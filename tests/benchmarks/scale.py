"""How fast larger dynamics step, by weights, ids a frame and rows: ``python tests/benchmarks/scale.py [--json FILE]``.

Weights are random, which costs the same. ``floor`` is the share of a step's time that it takes to read the blocks'
weights and the cache once for each of its two passes, at the bandwidth measured here: the most that one row can reach.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from tokenizer.stream import Layout
from tokenizer.text_tokenizer import TextTokenizer
from tokenizer.video_tokenizer import QuantizerConfig, VideoTokenizer, VideoTokenizerConfig
from tokenizer.vocabulary import Vocabulary
from train.worlds.tabletop.schema import tabletop_schema
from worldmodel.bench import bandwidth, time_steps
from worldmodel.engines.choice import ENGINES
from worldmodel.transformer import Dynamics, DynamicsConfig
from worldmodel.world import World

PASSES = 2  # of a step: state, picture


@dataclass(frozen=True)
class Size:
    width: int
    depth: int
    heads: int


SIZES = {
    "3M": Size(192, 6, 4),
    "25M": Size(480, 9, 5),
    "100M": Size(768, 14, 8),
    "300M": Size(1152, 19, 12),
    "1B": Size(1920, 23, 20),
}


def world_of(size: Size, ids: int, device: str, dtype: torch.dtype, engine: str) -> World:
    """A world of Tabletop's schema with so many video ids a step."""
    text, schema = TextTokenizer.train(["a red ball", "two bodies"], 300), tabletop_schema()
    side = 8 * round(ids**0.5)
    tokenizer = VideoTokenizer(
        VideoTokenizerConfig(resolution=side, quantizer=QuantizerConfig(levels=(8, 5, 5, 5))), schema
    )
    vocabulary = Vocabulary.of(text=text, actions=schema.actions, schema=schema, num_codes=tokenizer.num_codes)
    config = DynamicsConfig(width=size.width, depth=size.depth, heads=size.heads, tokens_per_pass=(ids,))
    layout = Layout.of(vocabulary, schema, tokenizer.grid, config.max_text)
    with torch.device(device):
        dynamics = Dynamics(config, layout, schema).to(dtype)
    world = World(schema=schema, text=text, tokenizer=tokenizer, dynamics=dynamics).to(device)
    return World(schema=schema, text=text, tokenizer=world.tokenizer, dynamics=world.dynamics, engine=engine)


def measure(world: World, batch: int, steps: int, rate: float) -> dict[str, float]:
    """Milliseconds of a step (p50, p95), frames a second of all rows, and the share that reading takes."""
    made, config, layout = time_steps(world, batch=batch, steps=steps), world.dynamics.config, world.dynamics.layout
    weights = sum(p.numel() * p.element_size() for p in world.dynamics.blocks.parameters())
    past = layout.header_length + (config.window + config.anchor_frames) * layout.step_length
    cache = 2 * batch * config.depth * past * config.width * world.dynamics.embed.weight.element_size()
    floor = PASSES * (weights + cache) / rate / 1e6
    return {**made["step_ms"], "frames_per_s": made["frames_per_s"], "floor": round(floor / made["step_ms"]["p50"], 3)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    cuda = torch.cuda.is_available()
    parser.add_argument("--sizes", nargs="*", choices=SIZES, default=[*SIZES][1:] if cuda else ["3M", "25M"])
    parser.add_argument("--ids", type=int, nargs="*", default=[64, 256])
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 8, 64] if cuda else [1])
    parser.add_argument("--steps", type=int, default=30 if cuda else 10)
    parser.add_argument("--engines", nargs="*", choices=ENGINES, default=["torch", "cuda_graph"] if cuda else ["torch"])
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    device, dtype = ("cuda", torch.bfloat16) if cuda else ("cpu", torch.float32)
    rate, rows = bandwidth(torch.device(device)), []
    print(f"{device}, {dtype}, {rate:.0f} GB/s")
    print(
        f"{'weights':>8} {'ids':>4} {'rows':>4} {'engine':>10} {'ms p50':>8} {'ms p95':>8} {'frames/s':>9} {'floor':>6}"
    )
    for name in chosen.sizes:
        for ids in chosen.ids:
            for engine in chosen.engines:
                world = world_of(SIZES[name], ids, device, dtype, engine)
                blocks = sum(p.numel() for p in world.dynamics.blocks.parameters())
                for batch in chosen.batch:
                    found = measure(world, batch, chosen.steps, rate)
                    rows.append({"size": name, "blocks": blocks, "ids": ids, "rows": batch, "engine": engine, **found})
                    shown = (
                        f"{found['p50']:8.2f} {found['p95']:8.2f} {found['frames_per_s']:9.1f} {found['floor']:6.1%}"
                    )
                    print(f"{blocks / 1e6:7.0f}M {ids:4} {batch:4} {engine:>10} {shown}", flush=True)
    if chosen.json:
        chosen.json.write_text(
            json.dumps({"device": device, "gb_per_s": rate, "rows": rows}, indent=1), encoding="utf-8"
        )


if __name__ == "__main__":
    main()
