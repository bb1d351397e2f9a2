"""Plays a world through the real server and its real socket, and says how fast that went."""

from __future__ import annotations

import asyncio
import json
from itertools import cycle, pairwise
from time import perf_counter
from typing import Any

import numpy as np

from demo.play_socket import unpack

STEPS_PER_ACTION = 5


async def play(url: str, *, steps: int = 40, seed: int = 7) -> dict[str, Any]:
    """Plays ``steps`` steps as fast as the server makes them, with every action in turn.

    Returns ``steps_per_s``, ``frames_per_s`` and ``step_ms`` (``p50`` and ``p95`` of the model's own time).
    Raises ValueError if the server complains, falls silent or sends the same picture again and again.
    """
    from websockets.asyncio.client import connect

    async with connect(url.replace("http", "ws", 1) + "play", max_size=None) as socket:

        async def say(**message: Any) -> None:
            await socket.send(json.dumps(message))

        hello = json.loads(await socket.recv())
        if hello["type"] == "error":
            raise ValueError(f"The server sent no picture: {hello['message']}")
        await say(type="pace", steps_per_s=None)
        await say(type="start", caption=None, seed=seed)
        actions = cycle(hello["schema"]["actions"][1:] or [None])
        arrivals, step_ms, frames, seen = [], [], [], 0
        while len(step_ms) < steps:
            message = await asyncio.wait_for(socket.recv(), timeout=120)
            if isinstance(message, str):
                raise ValueError(f"The server stopped playing: {json.loads(message)['message']}")
            header, pixels = unpack(message)
            seen += 1
            await say(type="seen", count=seen)
            arrivals.append(perf_counter())
            shape = (header["frames"], header["height"], header["width"], 3)
            frames.append(np.frombuffer(pixels, np.uint8).reshape(shape))
            if header["step_ms"]:
                step_ms.append(header["step_ms"])
            if len(step_ms) % STEPS_PER_ACTION == 0 and (action := next(actions)) is not None:
                await say(type="keys", held=[action])
            if header["terminated"]:
                await say(type="pause", on=False)
    changed = sum(np.any(a[-1] != b[-1]) for a, b in pairwise(frames))
    if changed < steps // 4:
        raise ValueError(f"The picture changed in only {changed} of {steps} steps.")
    # The first arrival is the picture that the world starts with: what follows took the steps' time.
    steps_per_s = steps / (arrivals[-1] - arrivals[0])
    return {
        "steps_per_s": round(steps_per_s, 2),
        "frames_per_s": round(steps_per_s * len(frames[-1]), 2),
        "step_ms": {f"p{share}": round(float(np.percentile(step_ms, share)), 2) for share in (50, 95)},
        "first_picture_at": arrivals[0],
    }
