"""`python -m worldmodel.bench [--world NAME] [--json FILE]`: how fast a world is on this machine, part by part.

One process after the other, so that nothing waits for anything else: steps of one row and of more, each way of
decoding that the world was trained for, the engines that are installed, and raster decoding (one id a pass, with
weights that were not trained for it, which cost the same) beside a Hugging Face Llama of as many weights with its
dynamic cache. The floor is what it takes to read the blocks' weights once for a pass at the bandwidth measured here.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

import worldmodel.engines.torch_engine as engine_file
from worldmodel.engines.choice import ENGINES
from worldmodel.sampling import Sampling
from worldmodel.storage import default_world
from worldmodel.threads import choose_threads
from worldmodel.transformer import Dynamics
from worldmodel.world import World

Numbers = dict[str, Any]
KEYS = {"openvino": "fast", "cuda_graph": "cuda_graph"}  # under which engines other than PyTorch are told
WARM_UP = 6  # steps, by which time the ring is full


def now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


@contextmanager
def timed(owner: Any, name: str, spent: list[float], device: torch.device) -> Iterator[None]:
    """Within the block, every call of ``owner.name`` appends its milliseconds."""
    original: Callable[..., Any] = getattr(owner, name)
    own = name in vars(owner)

    def call(*args: Any, **named: Any) -> Any:
        begin = now(device)
        try:
            return original(*args, **named)
        finally:
            spent.append(1000 * (now(device) - begin))

    setattr(owner, name, call)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, original)
        else:
            delattr(owner, name)


def percentiles(times: Any) -> Numbers:
    return {f"p{share}": round(float(np.percentile(times, share)), 3) for share in (50, 95)}


def time_steps(
    world: World, *, batch: int = 1, steps: int = 60, sampling: Sampling | None = None, upsample: bool = False
) -> Numbers:
    """Milliseconds of a step and its parts: ``step_ms`` (p50, p95), ``parts_ms`` (p50), ``frames_per_s`` of all rows.

    ``simulate``, ``draw`` and ``sample``, which both of them do, lie within one graph where the engine makes one.
    """
    rollout, device = world.start(seed=0, batch=batch, sampling=sampling, upsample=upsample), world.device
    names = ["simulate", "draw", "sample", "commit", "decode", "upsample"]
    spent: dict[str, list[float]] = {name: [] for name in [*names, "step"]}
    actions = world.actions.sample(steps + WARM_UP, batch, generator=torch.Generator().manual_seed(0))
    owners = [world.engine, world.engine, engine_file, rollout.cache, world.engine, rollout]
    methods = ["simulate", "draw", "sample", "commit", "decode", "_upsampled"]
    with ExitStack() as stack:
        for name, owner, method in zip(names, owners, methods, strict=True):
            stack.enter_context(timed(owner, method, spent[name], device))
        for i in range(steps + WARM_UP):
            if i == WARM_UP:
                for times in spent.values():
                    times.clear()
            begin = now(device)
            rollout.step(actions[i // 4] if world.actions else None)
            spent["step"].append(1000 * (now(device) - begin))
    sums = {
        name: np.add.reduceat(times, range(0, len(times), max(1, len(times) // steps)))
        for name, times in spent.items()
        if times
    }
    whole = percentiles(sums.pop("step"))
    if not upsample:
        sums.pop("upsample", None)
    frames = 1000 / whole["p50"] * batch * world.tokenizer.frames_per_step
    parts = {name: round(float(np.median(times)), 3) for name, times in sums.items()}
    return {"step_ms": whole, "parts_ms": parts, "frames_per_s": round(frames, 1)}


def raster_of(world: World, engine: str) -> World:
    """The same world with a dynamics that says one id a pass. Its weights are random."""
    config = replace(world.dynamics.config, tokens_per_pass=(1,))
    dynamics = Dynamics(config, world.dynamics.layout, world.schema).to(world.device)
    return World(
        schema=world.schema, text=world.text, tokenizer=world.tokenizer, dynamics=dynamics,
        attention=world.parts.attention, engine=engine,
    )  # fmt: skip


def hugging_face_ms(world: World, *, passes: int = 64) -> float | str:
    """Milliseconds that a Llama of the dynamics' width, depth and number of block weights takes for one more id after
    as many as the dynamics looks back on; or why it was not measured."""
    try:
        from transformers import (  # pyright: ignore[reportMissingImports]
            DynamicCache,
            LlamaConfig,
            LlamaForCausalLM,
        )
    except ImportError as error:
        return f"not measured: {error}; pip install 'worldmodel-stream[bench]'"
    config, layout = world.dynamics.config, world.dynamics.layout
    llama: Any = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(world.vocabulary), hidden_size=config.width, num_hidden_layers=config.depth,
            num_attention_heads=config.heads, num_key_value_heads=config.heads,
            intermediate_size=config.width * 8 // 3,  # three matrices here are as large as two of four widths
        )
    )  # fmt: skip
    llama = llama.to(world.device).eval()
    past = layout.header_length + (config.window + config.anchor_frames) * layout.step_length
    times = []
    with torch.inference_mode():
        cache = DynamicCache()
        ids = torch.zeros(1, past, dtype=torch.long, device=world.device)
        for i in range(passes):
            begin = now(world.device)
            ids = llama(ids, past_key_values=cache, use_cache=True).logits[:, -1:].argmax(-1)
            if i > 4:
                times.append(1000 * (now(world.device) - begin))
    return float(np.median(times))


def bandwidth(device: torch.device) -> float:
    """Gigabytes a second at which a sum reads memory that no cache holds."""
    data = torch.ones(2**27, device=device)  # half a gigabyte
    times = []
    for _ in range(5):
        begin = now(device)
        data.sum()
        times.append(now(device) - begin)
    return data.numel() * 4 / min(times) / 1e9


def measure(world: World, engine: str, *, batches: list[int], steps: int, raster_steps: int) -> Numbers:
    """All of one engine's figures."""
    numbers = time_steps(world, steps=steps)
    default, *others = world.dynamics.config.tokens_per_pass
    modes = {str(default): dict(numbers)}
    if world.upsampler is not None:
        numbers["with_upsampler"] = time_steps(world, steps=max(10, steps // 2), upsample=True)
    for batch in batches:
        numbers[f"batch_{batch}"] = time_steps(world, batch=batch, steps=max(10, steps // batch))
    for k in others:
        sampling = replace(world.sampling, tokens_per_pass=k)
        modes[str(k)] = time_steps(world, steps=max(10, steps // 2), sampling=sampling)
    numbers["modes"] = modes
    raster = time_steps(raster_of(world, engine), steps=raster_steps)
    drawn = raster["parts_ms"]["draw"]
    numbers["raster"] = raster | {"ms_per_id": round(drawn / world.dynamics.layout.num_video, 4)}
    return numbers


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m worldmodel.bench", description=__doc__)
    parser.add_argument("--world", help="bundled name, world folder or hub id; the default world if left out")
    parser.add_argument("--device", help="cuda where it is there, by default")
    parser.add_argument("--batch", type=int, nargs="*", default=[8, 64], help="further numbers of rows")
    parser.add_argument("--steps", type=int, default=60, help="of each measurement")
    parser.add_argument("--raster-steps", type=int, default=4)
    parser.add_argument("--threads", type=int, help="instead of the number that a short measurement chooses")
    parser.add_argument("--json", type=Path, help="file to write the numbers to")
    chosen = parser.parse_args(arguments)
    threads = chosen.threads or choose_threads().count
    torch.set_num_threads(threads)
    try:
        numbers: Numbers = {}
        for engine in ENGINES:
            try:
                world = World.from_pretrained(chosen.world, device=chosen.device, engine=engine)
            except ValueError as error:
                if engine == "torch":
                    raise
                numbers[KEYS[engine]] = f"not measured: {error}"
                continue
            found = measure(world, engine, batches=chosen.batch, steps=chosen.steps, raster_steps=chosen.raster_steps)
            if engine == "torch":
                numbers = {
                    "about": {"world": chosen.world or default_world(), "device": str(world.device), "threads": threads}
                } | found
                numbers["hugging_face_ms"] = hugging_face_ms(world)
                rate = bandwidth(world.device)
                weights = sum(p.numel() * p.element_size() for p in world.dynamics.blocks.parameters())
                numbers["floor"] = {"gb_per_s": round(rate, 1), "ms_per_pass": round(weights / rate / 1e6, 3)}
            else:
                numbers[KEYS[engine]] = found
            peer = numbers["hugging_face_ms"]
            if isinstance(peer, float):
                found["raster"]["vs_hugging_face"] = round(peer / found["raster"]["ms_per_id"], 2)
        if chosen.json is not None:
            chosen.json.parent.mkdir(parents=True, exist_ok=True)
            chosen.json.write_text(json.dumps(numbers, indent=1), encoding="utf-8")
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(numbers))
    return 0


def table(numbers: Numbers, indent: str = "") -> str:
    lines = []
    for name, value in numbers.items():
        if isinstance(value, dict) and any(isinstance(part, dict) for part in value.values()):
            lines += [f"{indent}{name}", table(value, indent + "  ")]
        else:
            shown = ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
            lines.append(f"{indent}{name:<{24 - len(indent)}} {shown}")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
