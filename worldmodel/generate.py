"""`python -m worldmodel.generate`: a film out of a world, from a sentence, a story, a clip or another film's end.

    python -m worldmodel.generate --prompt "a ball and a box" --seconds 120 --out film.mp4
    python -m worldmodel.generate --story story.yaml --out film.mp4
    python -m worldmodel.generate --frames clip.mp4 --seconds 20 --out on.mp4
    python -m worldmodel.generate --again film.jsonl --out same.mp4      # the same film, picture for picture
    python -m worldmodel.generate --go-on film.jsonl --seconds 60 --out more.mp4

The file ends in .mp4, .webm or .gif. Beside it lies film.jsonl: how it was made, and every step's state and ids.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import torch
from tqdm import tqdm

from worldmodel.engines.choice import ENGINES
from worldmodel.film import PROMPT, Film, Opening, end_of, log_of, read_log, write
from worldmodel.sampling import Sampling
from worldmodel.story import Shot, Story
from worldmodel.threads import choose_threads
from worldmodel.video_file import format_of, read_clip
from worldmodel.world import World

SECONDS = 10.0
SCENES = 16  # that a terse prompt is tried on
READINGS = 6  # ways in which each is put into words
JOINING = {"a", "an", "the", "and", "or", "with", "of", "on", "in", "at", "some"}
_BAR = "{percentage:3.0f} % |{bar}| {elapsed}, {remaining} left"


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        prog="python -m worldmodel.generate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("--world", help="bundled name, folder or hub id; the default world if left out")
    source = made.add_mutually_exclusive_group()
    source.add_argument("--prompt", help="a scene in words; without any source a scene is sampled")
    source.add_argument("--story", type=Path, help="story.yaml: shots, one after the other (see docs/films.md)")
    source.add_argument("--frames", type=Path, help="a clip that the film goes on from")
    source.add_argument("--again", type=Path, help="film.jsonl: the film that is to be made once more")
    source.add_argument("--go-on", type=Path, help="film.jsonl: the film at whose end this one begins")
    made.add_argument("--seconds", type=float, help=f"how long, where no story says so; {SECONDS:.0f} by default")
    made.add_argument("--action", help="what is done all the time: an action's name, idle, random or likely")
    made.add_argument("--motion", type=float, help="how fast things move as the scene begins")
    made.add_argument("--enhance", action="store_true", help="put the scene into full words first, and begin from them")
    made.add_argument("--seed", type=int, help="0 by default")
    made.add_argument("--upsample", action="store_true", help="twice the size, in more time")
    made.add_argument("--engine", choices=ENGINES, default="torch")
    made.add_argument("--out", type=Path, required=True)
    return made


def enhanced(world: World, prompt: str, seed: int) -> str:
    """A terse prompt in full words: of ``SCENES`` scenes that are sampled for it, the one in whose words most of the
    prompt's are found again.

    Each is put into words several times over, for what one sentence calls a box is a cube in the next. Raises
    ValueError for a world that has no words for its state.
    """
    draw = not world.dynamics.simulates_alone
    scenes = world.start(prompt or None, seed=seed, batch=SCENES if prompt else 1, draw=draw).state
    told = [world.caption(scenes)] + [world.caption(scenes, seed=seed + SCENES * i) for i in range(READINGS)]
    asked = _words(prompt)
    found = [len(asked & set().union(*(_words(words[i]) for words in told))) for i in range(len(scenes))]
    return told[0][found.index(max(found))]


def _words(text: str) -> set[str]:
    """Of a text, without what makes plurals and without those that only join others."""
    words = (word.strip(".,;:!?").lower() for word in text.split())
    return {word.removesuffix("s") for word in words if word} - JOINING


def planned(asked: argparse.Namespace, world: World) -> Film:
    """The film that is asked for. Raises ValueError for what does not go together or cannot be."""
    seed, opening, sampling, upsample = asked.seed or 0, None, None, asked.upsample
    one: dict[str, Any] = {"seconds": SECONDS if asked.seconds is None else asked.seconds}
    one |= {name: value for name in ("action", "motion") if (value := getattr(asked, name)) is not None}
    if asked.story is not None or asked.again is not None:
        given = [name for name in ("seconds", "action", "motion") if getattr(asked, name) is not None]
        if given:
            raise ValueError(f"a story says {given[0]} itself: leave out --{given[0]}")
    if asked.again is not None:
        how, _ = read_log(asked.again)
        _refuse_other(world, how, asked.again)
        if how.get("opening"):
            raise ValueError(f"{asked.again} went on from {how['opening']}: make it again as it was made")
        story, sampling = Story.from_json(how["story"]), Sampling(**how["sampling"])
        seed, upsample = how["seed"] if asked.seed is None else seed, how["upsample"] or upsample
    elif asked.story is not None:
        story = Story.load(asked.story)
    else:
        prompt = asked.prompt or ""
        if asked.enhance:
            prompt = enhanced(world, prompt, seed)
            print(f"prompt: {prompt}")
        if asked.frames is not None:
            opening = _clip(world, asked.frames)
        if asked.go_on is not None:
            how, last = read_log(asked.go_on)
            _refuse_other(world, how, asked.go_on)
            opening, sampling = end_of(world, last), Sampling(**how["sampling"])
        story = Story(shots=(Shot(**one, prompt=prompt),))
    return Film(world, story, seed=seed, upsample=upsample, opening=opening, sampling=sampling)


def _refuse_other(world: World, how: dict[str, Any], path: Path) -> None:
    if how["world"] != world.parts.fingerprint:
        raise ValueError(f"{path} is a film of another world: name that one by --world")


def _clip(world: World, path: Path) -> Opening:
    r, fps = world.tokenizer.frames_per_step, world.schema.fps
    frames = read_clip(path, size=world.tokenizer.size, fps=fps, seconds=(1 + r * PROMPT) / fps)
    return Opening(frames=frames[(len(frames) - 1) % r :])


def main(arguments: list[str] | None = None) -> int:
    asked = parser().parse_args(arguments)
    begun = perf_counter()
    try:
        format_of(asked.out)
        if not asked.out.parent.is_dir():
            raise ValueError(f"there is no folder {asked.out.parent}: make it first")
        if {asked.again, asked.go_on} & {log_of(asked.out)}:
            raise ValueError(f"{log_of(asked.out)} would be written over while it is read: give another --out")
        torch.set_num_threads(choose_threads().count)
        world = World.from_pretrained(asked.world, engine=asked.engine)
        film = planned(asked, world)
        source = asked.frames or asked.go_on
        about = {"made_of": asked.world or "", "engine": asked.engine, "opening": str(source) if source else ""}
        seconds = film.story.seconds
        with tqdm(total=film.num_steps, bar_format=_BAR, mininterval=0.5) as bar:
            for _ in write(film, asked.out, about):
                bar.update()
    except (ValueError, ImportError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"stopped; {asked.out} can be played as far as it goes", file=sys.stderr)
        return 130
    height, width = film.size
    took = perf_counter() - begun
    print(f"{asked.out}: {seconds:.0f} s of {width}x{height} at {film.fps} frames a second, made in {took:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
