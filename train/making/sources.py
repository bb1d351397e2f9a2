"""What a world is made from: an environment, a folder of videos, somebody's dataset, or a recording that is there.

Each becomes a recording (``recording_layout.py``), and from there on they are all alike.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from tokenizer.frames import said_size
from train.data.episode_store import EpisodeStore
from train.data.lerobot_folder import lerobot_source
from train.data.video_look import default_frames_per_step
from train.data.video_look import look as look_at_videos
from train.import_minari import look as look_at_minari
from train.record import parse_size
from train.worlds.contract import Recipe, Size
from train.worlds.gym_world import environment
from train.worlds.registry import recipe

SHORTER_SIDE = {"tiny": 32, "small": 64, "base": 128}  # pixels, of what is not asked for otherwise
CELL = 8
_TINY_STEPS = 16  # most of an episode


@dataclass(frozen=True, kw_only=True)
class Source:
    """What was found, and how it becomes a recording.

    Attributes:
        name: what the world is called.
        said: what was found, a sentence each.
        recording: the folder that it becomes, or is.
        command: the command that records so many episodes of it (None: all that there is), if one is needed.
        counted: whether it can be asked for more episodes.
        latent: actions are learned from the pictures, for it has none or they are hidden.
        hidden: it has actions, which are to be hidden.
        state: it has a described state.
        recipe: the name by which its simulator is found, if it has one.
        page: what the player shows of a world without a recipe.
    """

    name: str
    said: tuple[str, ...]
    recording: Path
    command: Callable[[int | None], list[str]] | None = None
    counted: bool = False
    latent: bool = False
    hidden: bool = False
    state: bool = False
    recipe: str = ""
    page: Mapping[str, Any] = field(default_factory=dict)

    def exported(self, work: Path) -> list[str]:
        """What ``train.export`` is told of where the world comes from."""
        if self.recipe:
            return ["--world-recipe", self.recipe]
        path, page = work / "page.json", dict(self.page)
        work.mkdir(parents=True, exist_ok=True)
        if self.latent:
            hint = "Nobody said what is done in it: keys 1 to 8 are what was found, and left alone it plays itself."
            page |= {"plays_itself": True, "intro": f"{page.get('intro', '')} {hint}".strip()}
        path.write_text(json.dumps(page, indent=1), encoding="utf-8")
        return ["--page", str(path)]


def find(chosen: argparse.Namespace, work: Path, size: str) -> Source:
    """Looks at what ``train.make`` was given. Raises ValueError and ImportError for what cannot become a world."""
    wanted, shorter = chosen.actions, SHORTER_SIDE[size]
    steps = min(chosen.steps, _TINY_STEPS) if size == "tiny" else chosen.steps
    seed = chosen.seed
    if chosen.world:
        asked = [] if chosen.resolution is None else ["--resolution", chosen.resolution]
        return _recorded(chosen.world, recipe(chosen.world), (), work, steps, seed, wanted, asked)
    if chosen.env:
        path = work / "world.yaml"
        world = environment(path, chosen, parse_size(chosen.resolution) if chosen.resolution else None, shorter)
        said = (
            *world.said(),
            f"{path} says all this: what is wrong there can be set right before anything is recorded",
        )
        return _recorded(str(path), world.recipe(), said, work, steps, seed, wanted, [])
    if chosen.recording:
        return _of_store(EpisodeStore(chosen.recording), chosen.recording, wanted)
    if chosen.lerobot:
        return _of_lerobot(chosen, work, shorter)
    if chosen.minari:
        return _of_minari(chosen, work, shorter)
    return _of_videos(chosen, work, shorter)


def _learned(wanted: str, acts: bool) -> dict[str, Any]:
    """Whether actions are learned from the pictures: where they are wanted so, or where there are none."""
    return {"latent": wanted == "latent" or (wanted == "own" and not acts), "hidden": wanted == "latent" and acts}


def fitting_size(height: int, width: int, shorter: int) -> Size:
    """(height, width) of about the same aspect, in whole cells, whose shorter side is at most about ``shorter``."""
    scale = min(1.0, shorter / min(height, width))
    rows, columns = (max(1, round(side * scale / CELL)) for side in (height, width))
    return rows * CELL, columns * CELL


def _recorded(
    name: str, world: Recipe, said: tuple[str, ...], work: Path, steps: int, seed: int, wanted: str, asked: list[str]
) -> Source:
    """A world that has a recipe."""
    recording, acts = work / "recording", bool(world.schema.actions)
    fixed = ["train.record", "--world", name, "--steps", str(steps), "--seed", str(seed), "--out", str(recording)]
    shown = {key: value for key, value in world.page.items() if key in ("name", "intro")}
    learned = _learned(wanted, acts)
    return Source(
        name=world.schema.name,
        said=said or (f"{name}: {_said(world.schema, world.sizes[0])}",),
        recording=recording,
        command=lambda episodes: [*fixed, "--episodes", str(episodes), *asked],
        counted=True,
        **learned,
        state=bool(world.schema.num_values),
        recipe="" if learned["latent"] else name,
        page=shown,
    )


def _said(schema: Any, size: Size) -> str:
    acts = f"actions: {', '.join(part.name for part in schema.actions.parts)}" if schema.actions else "no actions"
    state = f"a state of {schema.num_values} values" if schema.num_values else "no state"
    each = f"{schema.frames_per_step} frames a step, {schema.fps} frames a second"
    return f"pictures {said_size(size)}, {each}, {acts}, {state}"


def _of_store(store: EpisodeStore, recording: str | Path, wanted: str) -> Source:
    """A recording that is there."""
    acts, schema = bool(store.schema.actions), store.schema
    return Source(
        name=schema.name,
        said=(f"{recording}: {len(store)} episodes, {_said(schema, store.size)}",),
        recording=Path(recording),
        **_learned(wanted, acts),
        state=bool(schema.num_values),
        page={"name": schema.name},
    )


def _of_lerobot(chosen: argparse.Namespace, work: Path, shorter: int) -> Source:
    folder = lerobot_source(chosen.lerobot)
    store = EpisodeStore(folder, camera=chosen.camera, frames_per_step=chosen.frames_per_step)
    size = parse_size(chosen.resolution) if chosen.resolution else fitting_size(*store.size, shorter)
    command = ["train.import_lerobot", "--lerobot", chosen.lerobot, "--out", str(work / "recording")]
    command += ["--resolution", f"{size[0]}x{size[1]}", "--fit", chosen.fit]
    command += ["--frames-per-step", str(store.schema.frames_per_step)]
    command += [] if chosen.camera is None else ["--camera", chosen.camera]
    found = _of_store(store, chosen.lerobot, chosen.actions)
    said = (*found.said, f"its pictures are recorded at {said_size(size)}")
    return replace(found, said=said, recording=work / "recording", command=lambda _: command)


def _of_minari(chosen: argparse.Namespace, work: Path, shorter: int) -> Source:
    found = look_at_minari(chosen.minari)
    size = parse_size(chosen.resolution) if chosen.resolution else fitting_size(*found.size, shorter)
    command = ["train.import_minari", chosen.minari, "--out", str(work / "recording")]
    command += ["--resolution", f"{size[0]}x{size[1]}"]
    return Source(
        name=found.name,
        said=(*found.said(), f"its pictures are recorded at {said_size(size)}"),
        recording=work / "recording",
        command=lambda _: command,
        **_learned(chosen.actions, True),
        state=found.state,
        page={"name": found.name},
    )


def _of_videos(chosen: argparse.Namespace, work: Path, shorter: int) -> Source:
    """Clips have no actions, so they are learned."""
    found = look_at_videos(chosen.videos)
    if not found.num_readable:
        raise ValueError("\n".join([*found.said(), f"nothing in {chosen.videos} can be read: give a folder of clips"]))
    height, width = found.default_size
    finer = 2 * shorter // min(height, width)  # a clip has pixels enough
    size = parse_size(chosen.resolution) if chosen.resolution else fitting_size(finer * height, finer * width, shorter)
    fps = chosen.fps or found.default_fps
    r = chosen.frames_per_step or default_frames_per_step(fps)
    command = ["train.import_video", "--videos", chosen.videos, "--out", str(work / "recording"), "--fit", chosen.fit]
    command += ["--resolution", f"{size[0]}x{size[1]}", "--fps", str(fps), "--frames-per-step", str(r)]
    command += [] if chosen.captions is None else ["--captions", chosen.captions]
    name = Path(chosen.videos).resolve().stem
    intro = f"Learned from {found.num_readable} clips."
    return Source(
        name=name,
        said=(*found.said(), f"they are recorded at {said_size(size)}, {fps} frames a second, {r} frames a step"),
        recording=work / "recording",
        command=lambda _: command,
        **_learned(chosen.actions, False),
        page={"name": name, "intro": intro},
    )
