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

import torch
from tqdm import tqdm

from worldmodel.engines.choice import ENGINES
from worldmodel.film import PROMPT, Film, FilmLog, Opening, log_of, write
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


def planned(asked: argparse.Namespace, world: World, older: FilmLog | None) -> Film:
    """The film that is asked for; ``older`` is the one to make again or to go on from.

    Raises ValueError for what does not go together or cannot be.
    """
    told = older.of(world).how if older is not None else {}
    sampling = Sampling(**told["sampling"]) if told else None
    if asked.again is not None:
        if told.get("opening"):
            raise ValueError(f"{asked.again} went on from {told['opening']}: make it again as it was made")
        seed = told["seed"] if asked.seed is None else asked.seed
        upsample = told["upsample"] or asked.upsample
        return Film(world, Story.from_json(told["story"]), seed=seed, upsample=upsample, sampling=sampling)
    seed, opening, prompt = asked.seed or 0, None, asked.prompt or ""
    if asked.story is not None:
        return Film(world, Story.load(asked.story), seed=seed, upsample=asked.upsample)
    if asked.frames is not None:
        opening = _clip(world, asked.frames)
    elif older is not None:
        opening = older.end(world)
    if asked.enhance:
        prompt = enhanced(world, prompt, seed)
        print(f"prompt: {prompt}")
    seconds = SECONDS if asked.seconds is None else asked.seconds
    shot = Shot(seconds=seconds, prompt=prompt, motion=asked.motion, action=asked.action)
    return Film(world, Story(shots=(shot,)), seed=seed, upsample=asked.upsample, opening=opening, sampling=sampling)


def _refuse_unused(asked: argparse.Namespace) -> None:
    """Raises ValueError for an option that would change nothing."""
    for source, unused in (
        ("story", ("seconds", "action", "motion", "enhance")),
        ("again", ("seconds", "action", "motion", "enhance")),
        ("frames", ("motion", "enhance")),
        ("go_on", ("motion", "enhance")),
    ):
        given = [name for name in unused if getattr(asked, name) not in (None, False)]
        if getattr(asked, source) is not None and given:
            raise ValueError(f"--{given[0]} changes nothing beside --{source.replace('_', '-')}: leave it out")


def _clip(world: World, path: Path) -> Opening:
    r, fps = world.tokenizer.frames_per_step, world.schema.fps
    frames = read_clip(path, size=world.tokenizer.size, fps=fps, seconds=(1 + r * PROMPT) / fps)
    return Opening(frames=frames[(len(frames) - 1) % r :])


def main(arguments: list[str] | None = None) -> int:
    asked = parser().parse_args(arguments)
    begun = perf_counter()
    try:
        _refuse_unused(asked)
        format_of(asked.out)
        if not asked.out.parent.is_dir():
            raise ValueError(f"there is no folder {asked.out.parent}: make it first")
        if {asked.again, asked.go_on} & {log_of(asked.out)}:
            raise ValueError(f"{log_of(asked.out)} would be written over while it is read: give another --out")
        torch.set_num_threads(choose_threads().count)
        path = asked.again or asked.go_on
        older = None if path is None else FilmLog.read(path)
        name = asked.world or (older.how.get("name") if older is not None else None) or None
        world = World.from_pretrained(name, engine=asked.engine)
        film = planned(asked, world, older)
        about = {"name": name or "", "engine": asked.engine, "opening": str(asked.frames or asked.go_on or "")}
        seconds = film.story.seconds
        with tqdm(total=film.num_steps, bar_format=_BAR, mininterval=0.5) as bar:
            for _ in write(film, asked.out, about):
                bar.update()
    except (ValueError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except OSError as error:
        said = f"{asked.out} cannot be written ({error.strerror or error})"
        print(f"error: {said}: make room, or choose another --out", file=sys.stderr)
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
