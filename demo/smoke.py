"""Plays a world through the real server and its real socket, and says how fast that went."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
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
        moves = cycle(_moves(hello["controls"]) or [None])
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
            if len(step_ms) % STEPS_PER_ACTION == 0 and (move := next(moves)) is not None:
                await say(type="keys", **move)
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


def _moves(controls: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Everything that there is to hold or to set, one after the other, as ``keys`` messages say it."""
    moves: list[dict[str, Any]] = []
    for control in controls:
        match control["kind"]:
            case "choice":
                moves += [{"held": [choice["held"]]} for choice in control["choices"][1:]]
            case "binary":
                moves += [{"held": [], "values": {control["name"]: value}} for value in (1, 0)]
            case "stick":
                moves += _moves(control["axes"])
            case "binned":
                ends = control["levels"][0], control["levels"][-1], control["idle"]
                moves += [{"held": [], "values": {control["name"]: value}} for value in ends]
    return moves
