"""How fast the visual path is, part by part and size by size, and that its memory stays flat.

``python tests/benchmarks/visual.py [--world tabletop] [--frames 10000] [--threads 2] [--json FILE]``

The bundled networks are timed as trained, the sizes in ``train/configs`` with the weights they start from, which
cost the same. A row of the batch, the middle of many timings, in milliseconds for a pixel frame.
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import yaml

import train
from tokenizer.state_schema import StateSchema
from tokenizer.video_tokenizer import VideoTokenizer, VideoTokenizerConfig
from worldmodel.upsampler import Upsampler, UpsamplerConfig
from worldmodel.world import World

CONFIGS = Path(train.__file__).parent / "configs"


def milliseconds(call: Callable[[], Any], device: torch.device, *, seconds: float = 2.0) -> float:
    """The middle of the timings that fit in so many seconds, after a few to warm up."""
    took: list[float] = []
    for _ in range(3):
        call()
    ends = time.perf_counter() + seconds
    while time.perf_counter() < ends or len(took) < 5:
        begins = time.perf_counter()
        call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        took.append(time.perf_counter() - begins)
    return 1000 * sorted(took)[len(took) // 2]


def parameters(network: torch.nn.Module) -> float:
    """In millions."""
    return sum(p.numel() for p in network.parameters()) / 1e6


@torch.inference_mode()
def time_tokenizer(tokenizer: VideoTokenizer, state: torch.Tensor, device: torch.device) -> dict[str, float]:
    """``state`` (1, num_values) is shown and stands still."""
    tokenizer = tokenizer.to(device).eval()
    r = tokenizer.frames_per_step
    frames = torch.randint(0, 256, (1, r, *tokenizer.size, 3), dtype=torch.uint8, device=device)
    ids, state = tokenizer.encode_step(frames), state.to(device)
    told = tokenizer.start_cache(1), tokenizer.start_cache(1)
    return {
        "parameters_m": parameters(tokenizer),
        "ids_per_frame": ids.numel() / r,
        "encode_ms_per_frame": milliseconds(lambda: tokenizer.encode_step(frames), device) / r,
        "decode_ms_per_frame": milliseconds(lambda: tokenizer.decode_step(ids, told[0], state), device) / r,
        "decode_without_state_ms_per_frame": milliseconds(lambda: tokenizer.decode_step(ids, told[1]), device) / r,
    }


@torch.inference_mode()
def time_upsampler(upsampler: Upsampler, state: torch.Tensor, device: torch.device, r: int = 4) -> dict[str, float]:
    upsampler = upsampler.to(device).eval()
    frames = torch.randint(0, 256, (1, r, *upsampler.config.small_size, 3), dtype=torch.uint8, device=device)
    seed, state = torch.zeros(1, dtype=torch.long, device=device), state.to(device)
    found = {"parameters_m": parameters(upsampler), "size": upsampler.config.size}
    for steps in (1, 2, 4):
        cache = upsampler.start_cache(1)
        took = milliseconds(lambda: upsampler.step(frames, state, state, cache, seed, steps), device)  # noqa: B023
        found[f"ms_per_frame_{steps}_steps"] = took / r
    return found


@torch.inference_mode()
def memory(world: World, frames: int) -> dict[str, float]:
    """Most resident megabytes so far, and numbers kept of the past, after 100 pixel frames and after ``frames`` of
    decoding and upsampling one stream."""
    tokenizer, upsampler, found = world.tokenizer, world.upsampler, {}
    assert upsampler is not None
    state = torch.zeros(1, world.schema.num_values, device=world.device)
    past, large = tokenizer.start_cache(1), upsampler.start_cache(1)
    ids, seed = torch.zeros(1, *tokenizer.grid, dtype=torch.long, device=world.device), torch.zeros(1).long()
    for done in range(0, frames, tokenizer.frames_per_step):
        made = tokenizer.decode_step((ids + done) % tokenizer.num_codes, past, state)
        upsampler.step(made, state, state, large, seed.to(world.device))
        if done in (100, frames - tokenizer.frames_per_step):
            kept = [past, *large.passes]
            found[f"after_{done if done == 100 else frames}_frames"] = {
                "peak_resident_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
                "kept_numbers": sum(x.numel() for cache in kept for x in cache.past.values()),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--world", default="tabletop")
    parser.add_argument("--frames", type=int, default=10_000, help="of the longer stream whose memory is looked at")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--json", type=Path)
    chosen = parser.parse_args()
    torch.set_num_threads(chosen.threads)
    device = torch.device(chosen.device)
    world = World.from_pretrained(chosen.world, device=chosen.device)
    state = world.start(seed=0).state[:1].cpu()
    found: dict[str, Any] = {
        "about": {"device": str(device), "threads": torch.get_num_threads(), "torch": torch.__version__},
        f"tokenizer, {chosen.world}": time_tokenizer(world.tokenizer, state, device),
    }
    schema: StateSchema = world.schema
    for name in ("base", "large"):
        settings = yaml.safe_load((CONFIGS / f"tokenizer/{name}.yaml").read_text(encoding="utf-8"))["model"][
            "init_args"
        ]["config"]
        tokenizer = VideoTokenizer(VideoTokenizerConfig(**settings), schema)
        found[f"tokenizer, {name}"] = time_tokenizer(tokenizer, state, device)
    if world.upsampler is not None:
        found[f"upsampler, {chosen.world}"] = time_upsampler(world.upsampler, state, device)
    settings = yaml.safe_load((CONFIGS / "upsampler/base.yaml").read_text(encoding="utf-8"))["model"]["init_args"][
        "config"
    ]
    found["upsampler, base"] = time_upsampler(Upsampler(UpsamplerConfig(**settings), schema), state, device)
    if world.upsampler is not None:
        found["memory"] = memory(world, chosen.frames)
    for name, part in found.items():
        print(name)
        for key, value in part.items():
            print(f"  {key:<36} {value if not isinstance(value, float) else round(value, 3)}")
    if chosen.json:
        chosen.json.write_text(json.dumps(found, indent=1), encoding="utf-8")


if __name__ == "__main__":
    main()
