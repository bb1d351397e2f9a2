"""Whether a scene is what its caption says: drawn from captions alone and compared with what they claim.

A claim is one thing said of one body (its colour, shape or material), or how many bodies there are, where the caption
names them all. Bodies are taken in the order in which captions name them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from train.worlds.tabletop_captions import claims
from worldmodel.rollout import Sampling
from worldmodel.world import World

ROWS = 16  # of a batch
GUIDANCE = (0.0, 1.0, 2.0)


def measure_text(world: World, captions: Sequence[str], *, seed: int, sampling: Sampling) -> dict[str, float | None]:
    """Shares of claims that hold: ``attributes_obeyed`` and each attribute's with the world's own guidance, and
    ``attributes_obeyed_g`` for others; with g = 0, what chance obeys."""
    numbers: dict[str, float | None] = {"captions": len(captions), "guidance": sampling.guidance}
    for guidance in dict.fromkeys([sampling.guidance, *GUIDANCE]):
        held = _claims_held(world, captions, seed, replace(sampling, guidance=guidance))
        every = [claim for kind in held.values() for claim in kind]
        share = sum(every) / len(every) if every else None
        numbers[f"attributes_obeyed_{guidance:g}"] = share
        if guidance == sampling.guidance:
            numbers["attributes_obeyed"] = share
            numbers |= {f"{name}_obeyed": sum(kind) / len(kind) if kind else None for name, kind in held.items()}
    return numbers


@torch.inference_mode()
def _claims_held(world: World, captions: Sequence[str], seed: int, sampling: Sampling) -> dict[str, list[bool]]:
    bodies = [entity for entity in world.schema.entities if any(f.role == "colour" for f in entity.fields)]
    colours = next(f.names for f in bodies[0].fields if f.role == "colour")
    held: dict[str, list[bool]] = {"count": [], "colour": [], "shape": [], "material": []}
    for start in range(0, len(captions), ROWS):
        some = captions[start : start + ROWS]
        rollout = world.start(list(some), seed=seed + start, sampling=sampling)
        for row, caption in enumerate(some):
            scene, said = rollout.describe(row), claims(caption, colours)
            there = [scene[entity.name] for entity in bodies if scene[entity.name].get("present", True)]
            if len(said) > 1:
                held["count"].append(len(there) == len(said))
            for i, body in enumerate(said):
                for field, name in body.items():
                    held[field].append(i < len(there) and there[i][field] == name)
    return held
