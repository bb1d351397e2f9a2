"""Makes the README's moving picture: ``python -m docs.moving_picture``, of what the bundled world imagines.

Below the picture stands what is done. Everything in it is imagined, and upsampled once; nothing is drawn by hand.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from worldmodel.rollout import Rollout
from worldmodel.world import World

CAPTION = "you push a red rubber ball; beside it a blue metal box and a green ball"
SCALE, EVERY, LINE = 2, 2, 28  # of pixels; of frames; pixels for the words below
Deed = Callable[[Rollout], None]


def nothing(_: Rollout) -> None:
    """A key alone."""


def script() -> list[tuple[str, str, int, Deed]]:
    """What stands below, the key that is held, for how many steps, and what is done before."""
    return [
        ("hold the right arrow", "east", 9, nothing),
        ("hold the up arrow", "north", 9, nothing),
        ("write the state: the box is here now", "none", 9, lambda r: r.edit({"body_1": {"position": (-0.2, -0.25)}})),
        ("turn the camera", "orbit_left", 12, nothing),
        ("tell: “the light goes out”", "none", 8, lambda r: r.tell("the light goes out")),
        ("tell: “the light goes on”", "west", 9, lambda r: r.tell("the light goes on")),
    ]


def pictures(world: World, seed: int) -> list[Image.Image]:
    rollout = world.start(CAPTION, seed=seed, upsample=True)
    font = ImageFont.load_default(15)
    shown = []
    for words, key, steps, deed in script():
        deed(rollout)
        for _ in range(steps):
            step = rollout.step(key)
            assert step.upsampled is not None
            for frame in step.upsampled[0, ::EVERY].cpu().numpy():
                shown.append(framed(frame, words, font))
    return shown


def framed(frame: np.ndarray, words: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> Image.Image:
    """A frame uint8 (H, W, 3), enlarged, with words below."""
    height, width = (SCALE * side for side in frame.shape[:2])
    page = Image.new("RGB", (width, height + LINE), "#10141c")
    page.paste(Image.fromarray(frame).resize((width, height), Image.Resampling.LANCZOS), (0, 0))
    ImageDraw.Draw(page).text((8, height + 5), words, fill="#e8ecf4", font=font)
    return page


def side_by_side(pages: list[Image.Image]) -> Image.Image:
    return Image.fromarray(np.concatenate([np.asarray(page) for page in pages], 1))


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seed", type=int, default=7)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "play.gif")
    asked = parser.parse_args()
    world = World.from_pretrained("tabletop")
    pages = pictures(world, asked.seed)
    palette = side_by_side(pages[:: len(pages) // 12]).quantize(160)  # one for all, or colours would flicker
    first, *rest = [page.quantize(palette=palette, dither=Image.Dither.NONE) for page in pages]
    each = round(1000 * EVERY / world.schema.fps)
    first.save(asked.out, save_all=True, append_images=rest, duration=each, loop=0, optimize=True)
    print(f"{asked.out}: {1 + len(rest)} frames, {asked.out.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
