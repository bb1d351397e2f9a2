"""Whether a scene is what its header says, and whether captions said of scenes are true.

A claim is one thing said of one body (its colour, shape or material), or how many bodies there are, where the caption
names them all. Bodies are taken in the order in which captions name them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from tokenizer.scene import StateReader
from train.measure.measurement import Numbers
from worldmodel.sampling import Sampling
from worldmodel.world import World

ROWS = 16  # of a batch
LATER = 8  # steps
GUIDANCE = (0.0, 1.0, 2.0)

Claims = Callable[[str], list[dict[str, str]]]


def measure_text(world: World, captions: Sequence[str], claims: Claims, *, seed: int, sampling: Sampling) -> Numbers:
    """Shares of claims that hold: ``attributes_obeyed`` and each attribute's with the world's own guidance, and
    ``attributes_obeyed_g`` for others; with g = 0, what chance obeys."""
    numbers: Numbers = {"captions": len(captions), "guidance": sampling.guidance}
    for guidance in dict.fromkeys([sampling.guidance, *GUIDANCE]):
        held = _claims_held(world, captions, claims, seed, replace(sampling, guidance=guidance))
        every = [claim for kind in held.values() for claim in kind]
        share = sum(every) / len(every) if every else None
        numbers[f"attributes_obeyed_{guidance:g}"] = share
        if guidance == sampling.guidance:
            numbers["attributes_obeyed"] = share
            numbers |= {f"{name}_obeyed": sum(kind) / len(kind) if kind else None for name, kind in held.items()}
    return numbers


def measure_motion(world: World, *, rows: int, seed: int, sampling: Sampling) -> Numbers:
    """How much moves in scenes that are drawn with a motion intensity M given, and nothing else: ``motion``.

    ``M``: the motion that there is as the scene begins (``StateReader.motion``); ``M_later`` the same after eight idle
    steps. ``rises``: share of levels with more motion than the one below.
    """
    name, level = next((e.name, f) for e in world.schema.entities for f in e.fields if f.role == "motion")
    read, begun, later = StateReader(world.schema), Numbers(), Numbers()
    for share in (0.0, 0.25, 0.5, 0.75):
        motion = level.low + share * (level.high - level.low)
        rollout = world.start([""] * rows, seed=seed, state={name: {level.name: motion}}, sampling=sampling)
        begun[f"{motion:.3g}"] = read.motion(rollout.state).mean()
        for _ in range(LATER):
            rollout.step(world.actions.idle())
        later[f"{motion:.3g}_later"] = read.motion(rollout.state).mean()
    rises = [bool(low < high) for low, high in pairwise(begun.values())]
    return begun | later | {"rises": sum(rises) / len(rises)}


def measure_captions(world: World, states: Tensor, claims: Claims) -> Numbers:
    """What the world says of true states (B, F), likeliest word by word: ``caption`` in an evaluation.

    ``claims_true``: share of colours, shapes and materials said that are a body's there (the one of that colour), and
    so by attribute; ``count_true``: share of the captions that name several bodies which name all of them.
    """
    held: dict[str, list[bool]] = {"count": [], "colour": [], "shape": [], "material": []}
    said = [caption for begin in range(0, len(states), ROWS) for caption in world.caption(states[begin : begin + ROWS])]
    for state, caption in zip(states, said, strict=True):
        there = bodies_there(world, world.schema.to_dict(state))
        claimed = claims(caption)
        if len(claimed) > 1:
            held["count"].append(len(claimed) == len(there))
        for name, true in claims_true(claimed, there):
            held[name].append(true)
    every = [claim for name, kind in held.items() for claim in kind if name != "count"]
    numbers: Numbers = {"states": len(states), "claims_true": sum(every) / len(every) if every else None}
    return numbers | {f"{name}_true": sum(kind) / len(kind) if kind else None for name, kind in held.items()}


def claims_true(claimed: Sequence[Mapping[str, str]], there: Sequence[Mapping[str, Any]]) -> list[tuple[str, bool]]:
    """Of each thing said of a body, its field, and whether the body of that colour that is there has it."""
    told = []
    for body in claimed:
        real = next((each for each in there if each["colour"] == body["colour"]), {})
        told += [(name, real.get(name) == value) for name, value in body.items()]
    return told


def bodies_there(world: World, scene: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """Those there are, in the order in which captions name them."""
    bodies = [entity.name for entity in world.schema.entities if any(f.role == "colour" for f in entity.fields)]
    return [scene[name] for name in bodies if scene[name].get("present", True)]


@torch.inference_mode()
def _claims_held(
    world: World, captions: Sequence[str], claims: Claims, seed: int, sampling: Sampling
) -> dict[str, list[bool]]:
    held: dict[str, list[bool]] = {"count": [], "colour": [], "shape": [], "material": []}
    for start in range(0, len(captions), ROWS):
        some = captions[start : start + ROWS]
        rollout = world.start(list(some), seed=seed + start, sampling=sampling)
        for row, caption in enumerate(some):
            there, said = bodies_there(world, rollout.describe(row)), claims(caption)
            if len(said) > 1:
                held["count"].append(len(there) == len(said))
            for i, body in enumerate(said):
                for field, name in body.items():
                    held[field].append(i < len(there) and there[i][field] == name)
    return held
