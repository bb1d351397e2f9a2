"""Makes odd video files, small ones, of a test card from which time, orientation, aspect and colours are read back.

The card: four coloured corners, and between them a row of eight blocks, white or black, that tell a picture's number in
Gray code, so that one block changes at a time. ``python tests/train/odd_videos.py FOLDER`` writes them all.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
import numpy as np
from PIL import Image

FPS, COUNT, SIZE = 10, 20, (48, 64)  # of most files; (height, width)
CORNERS = np.array([[[200, 40, 40], [40, 180, 40]], [[40, 40, 200], [200, 200, 40]]], np.uint8)
EVEN = [i / FPS for i in range(COUNT)]
BITS = 8


def card(number: int, size: tuple[int, int] = SIZE, corners: np.ndarray = CORNERS) -> np.ndarray:
    """uint8 (height, width, 3)."""
    height, width = size
    rows, columns = np.arange(height) * 2 // height, np.arange(width) * 2 // width
    pixels = corners[rows[:, None], columns].copy()
    bits = ((number ^ number >> 1) >> (BITS - 1 - np.arange(width) * BITS // width)) & 1
    pixels[height * 2 // 5 : height - height * 2 // 5] = np.where(bits, 235, 20)[None, :, None]
    return pixels


def read_number(picture: np.ndarray) -> int:
    """The number that a card shows; -1 where a block is neither white nor black."""
    height, width = picture.shape[:2]
    row = picture[height // 2 - 1 : height // 2 + 1].mean((0, 2))
    centres = ((np.arange(BITS) + 0.5) * width / BITS).astype(int)
    blocks = np.array([row[max(0, x - 1) : x + 1].mean() for x in centres])
    if ((blocks > 80) & (blocks < 175)).any():
        return -1
    bits = np.bitwise_xor.accumulate(blocks > 128)
    return int("".join("1" if bit else "0" for bit in bits), 2)


def read_corners(picture: np.ndarray) -> np.ndarray:
    """Mean colours of a card's corners, (2, 2, 3)."""
    height, width = picture.shape[:2]
    rows, columns = (height // 8, height - 1 - height // 8), (width // 6, width - 1 - width // 6)
    return np.array([[picture[y - 1 : y + 2, x - 1 : x + 2].mean((0, 1)) for x in columns] for y in rows])


@dataclass(frozen=True, kw_only=True)
class Odd:
    """What an odd file shows: at which ``times`` the card has which of the ``numbers``, and when it ends.

    ``reason``: words of why it cannot be imported. ``lost``: words of what is lost of it.
    """

    times: Sequence[float] = ()
    numbers: Sequence[int] = ()
    end: float = 0.0
    reason: str = ""
    lost: str = ""
    shape: tuple[int, int] = SIZE  # as shown between the bars of a letterbox
    corners: np.ndarray = field(default_factory=lambda: CORNERS)


def shows(times: Sequence[float] = EVEN, numbers: Iterable[int] | None = None, **about: Any) -> Odd:
    last = times[-1] + (times[-1] - times[-2] if len(times) > 1 else 1 / FPS)
    about = {"end": last, **about}
    return Odd(times=times, numbers=list(range(len(times)) if numbers is None else numbers), **about)


LOSSLESS = {"crf": "4", "preset": "ultrafast"}


@dataclass(kw_only=True)
class Film:
    """How a file is written."""

    codec: str = "libx264"
    pix_fmt: str = "yuv420p"
    options: dict[str, str] = field(default_factory=lambda: dict(LOSSLESS))
    rate: int = FPS
    size: tuple[int, int] = SIZE
    aspect: Fraction | None = None
    rotation: float | None = None
    mirrored: bool = False
    sound_first: bool = False
    container: dict[str, str] = field(default_factory=dict)
    colours: dict[str, int] = field(default_factory=dict)
    matrix: int = 1  # BT.709
    full_range: bool = False

    def write(
        self,
        path: Path,
        pictures: Iterable[np.ndarray],
        times: Iterable[float] = EVEN,
        format: str | None = None,
    ) -> None:
        base = Fraction(1, self.rate if self.codec in ("mpeg4", "mpeg2video", "mjpeg") else 90000)
        with av.open(str(path), "w", format=format, options=self.container) as container:
            if self.sound_first:
                sound: Any = container.add_stream("aac", rate=48000)
            stream: Any = container.add_stream(self.codec, rate=self.rate, options=self.options)
            stream.height, stream.width = self.size
            stream.pix_fmt = self.pix_fmt
            stream.codec_context.time_base = base
            colours = {"colorspace": self.matrix, "color_range": 2 if self.full_range else 1, **self.colours}
            for name, value in colours.items():
                setattr(stream.codec_context, name, value)
            if self.aspect is not None:
                stream.sample_aspect_ratio = self.aspect
            if self.rotation is not None:
                stream.set_display_rotation(self.rotation, hflip=self.mirrored)
            if self.sound_first:
                for i in range(40):
                    heard = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
                    heard.sample_rate, heard.pts = 48000, i * 1024
                    container.mux(sound.encode(heard))
            for pixels, time in zip(pictures, times, strict=False):
                frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                matrix = (
                    {} if self.pix_fmt.startswith(("rgb", "gbr", "gray", "pal")) else {"dst_colorspace": self.matrix}
                )
                frame = frame.reformat(format=self.pix_fmt, dst_color_range=2 if self.full_range else 1, **matrix)
                for name, value in colours.items():
                    setattr(frame, name, value)
                frame.pts = round(time / stream.codec_context.time_base)
                frame.time_base = stream.codec_context.time_base
                container.mux(stream.encode(frame))
            container.mux(stream.encode())
            if self.sound_first:
                container.mux(sound.encode())


def cards(count: int = COUNT, size: tuple[int, int] = SIZE) -> list[np.ndarray]:
    return [card(i, size) for i in range(count)]


# -- one file each --------------------------------------------------------------------------------------


def variable_rate(path: Path) -> Odd:
    gaps = [0.1, 0.033, 0.2, 0.05, 0.4, 0.1, 0.07, 0.7, 0.1, 0.1, 0.013, 0.3]
    times = [float(t) for t in np.cumsum([0.0, *gaps])]
    Film().write(path, cards(len(times)), times)
    return shows(times, end=times[-1] + 0.1)


def jittered(path: Path) -> Odd:
    times = [i / FPS + (0.03 if i % 3 == 1 else 0.0) for i in range(COUNT)]
    Film().write(path, cards(), times)
    return shows(times, end=2.0)


def rotated(path: Path, turns: int = 1, mirrored: bool = False) -> Odd:
    """Stored lying on its side. The matrix turns it counterclockwise, and then exchanges left and right."""
    pictures = [np.rot90(pixels[:, ::-1] if mirrored else pixels, -turns) for pixels in cards()]
    size = pictures[0].shape[:2]
    Film(size=(size[0], size[1]), rotation=90 * turns, mirrored=mirrored).write(path, pictures)
    return shows()


def hevc_10_bit(path: Path) -> Odd:
    options = {"x265-params": "log-level=none", "crf": "8", "preset": "ultrafast"}
    Film(codec="libx265", pix_fmt="yuv420p10le", options=options).write(path, cards())
    return shows()


def odd_size(path: Path) -> Odd:
    Film(pix_fmt="yuv444p", size=(481, 853)).write(path, cards(size=(481, 853)))
    return shows(shape=(36, 64))


def portrait(path: Path) -> Odd:
    Film(size=(64, 48)).write(path, cards(size=(64, 48)))
    return shows(shape=(48, 36))


def grey(path: Path) -> Odd:
    Film(pix_fmt="gray", full_range=True).write(path, cards())
    return shows(corners=np.repeat(CORNERS @ [[0.299], [0.587], [0.114]], 3, -1))


def audio_first(path: Path) -> Odd:
    Film(sound_first=True).write(path, cards())
    return shows()


def vp9(path: Path) -> Odd:
    options = {"crf": "10", "b": "0", "deadline": "realtime", "cpu-used": "8"}
    Film(codec="libvpx-vp9", options=options).write(path, cards())
    return shows()


def gif(path: Path) -> Odd:
    gaps = [0.1, 0.2, 0.05, 0.3, 0.1, 0.1, 0.5]
    images = [Image.fromarray(card(i)) for i in range(len(gaps))]
    durations = [round(gap * 1000) for gap in gaps]
    images[0].save(path, save_all=True, append_images=images[1:], duration=durations, loop=0)
    return shows([float(t) for t in np.cumsum([0.0, *gaps[:-1]])], end=sum(gaps))


def full_range(path: Path) -> Odd:
    Film(full_range=True).write(path, cards())
    return shows()


def bt601(path: Path) -> Odd:
    Film(matrix=6).write(path, cards())
    return shows()


def interlaced(path: Path) -> Odd:
    """Each picture holds two moments, the earlier one in its lower field."""
    pictures = cards()
    for pixels, later in pairwise(pictures):
        pixels[0::2] = later[0::2]
    options = {**LOSSLESS, "x264-params": "bff=1"}
    Film(pix_fmt="yuv422p", options=options).write(path, pictures)
    return shows()


def anamorphic(path: Path) -> Odd:
    """Sample aspect 4:3: 48x48 pixels are shown as 64x48."""
    Film(size=(48, 48), aspect=Fraction(4, 3)).write(path, [card(i, (48, 48)) for i in range(COUNT)])
    return shows()


def edit_list(path: Path) -> Odd:
    """The edit list begins half a second after the first picture."""
    Film(options={**LOSSLESS, "g": "100"}, container={"video_track_timescale": "1000"}).write(path, cards())
    content = bytearray(path.read_bytes())
    at = content.find(b"elst") + 12  # after its name, version and count: how long it lasts, and from when on
    lasts, begins = (int.from_bytes(content[i : i + 4], "big") for i in (at, at + 4))
    content[at : at + 8] = (lasts - 500).to_bytes(4, "big") + (begins + 500).to_bytes(4, "big")
    path.write_bytes(content)
    return shows(EVEN[:-5], range(5, COUNT), end=1.5)


def truncated_tail(path: Path) -> Odd:
    Film(options={**LOSSLESS, "g": "5"}, container={"movflags": "+faststart"}).write(path, cards())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 7 // 10])
    return shows(EVEN[:12], end=1.2, lost="are missing from the file")


def truncated_mkv(path: Path) -> Odd:
    Film(options={**LOSSLESS, "g": "5"}).write(path, cards())
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 7 // 10])
    return shows(EVEN[:12], end=1.2, lost="are missing from the file")


def no_moov(path: Path) -> Odd:
    Film().write(path, cards())
    content = path.read_bytes()
    path.write_bytes(content[: content.find(b"moov") - 4])
    return Odd(reason="its index (moov) is missing")


def empty(path: Path) -> Odd:
    path.write_bytes(b"")
    return Odd(reason="it is empty")


def text(path: Path) -> Odd:
    path.write_text("Dear diary, today I filmed a café.\n" * 40, encoding="utf-8")
    return Odd(reason="it is text")


def one_frame(path: Path) -> Odd:
    Film().write(path, cards(1))
    return Odd(reason="shorter than a step")


def three_frames(path: Path) -> Odd:
    Film().write(path, cards(3))
    return shows(EVEN[:3], end=0.3)


def plain(path: Path, **film: Any) -> Odd:
    Film(**film).write(path, cards(size=film.get("size", SIZE)))
    return shows()


def cut(path: Path) -> Odd:
    """Its second half is another shot, with other colours."""
    Film().write(path, [card(i, corners=CORNERS if i < 10 else CORNERS[::-1] // 3) for i in range(COUNT)])
    return shows()


def black(path: Path, seconds: int = 7200) -> Odd:
    """A picture a second, the first of them white."""
    pictures = (np.full((*SIZE, 3), 255 if i == 0 else 0, np.uint8) for i in range(seconds))
    Film(rate=1).write(path, pictures, (float(i) for i in range(seconds)))
    return Odd(times=[0.0], numbers=[0], end=float(seconds))


def stills(path: Path) -> Odd:
    path.mkdir()
    for i in range(12):
        Image.fromarray(card(i)).save(path / f"frame{i}.png")
    return shows(EVEN[:12])


def see_through(path: Path) -> Odd:
    """A gif with a hole where the red corner would be."""
    images = [Image.fromarray(np.dstack([card(i), np.full(SIZE, 255, np.uint8)])) for i in range(8)]
    for image in images:
        image.paste((0, 0, 0, 0), (0, 0, SIZE[1] // 2, SIZE[0] * 2 // 5))
    images[0].save(path, save_all=True, append_images=images[1:], duration=100, disposal=2)
    corners = CORNERS.copy()
    corners[0, 0] = 255
    return shows(EVEN[:8], corners=corners)


def animated_webp(path: Path) -> Odd:
    images = [Image.fromarray(card(i)) for i in range(8)]
    images[0].save(path, save_all=True, append_images=images[1:], duration=100, lossless=True)
    return shows(EVEN[:8])


def without_times(path: Path) -> Odd:
    """All of its packets have the same time stamp."""
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("ffv1", rate=FPS)
        stream.height, stream.width = SIZE
        stream.pix_fmt = "yuv444p"
        for i in range(COUNT):
            frame = av.VideoFrame.from_ndarray(card(i), format="rgb24")
            frame.pts = i
            for packet in stream.encode(frame):
                packet.pts = packet.dts = 0
                container.mux(packet)
    return shows()


def twice_each_time(path: Path) -> Odd:
    Film(codec="ffv1", options={}).write(path, cards(), [i // 2 / FPS for i in range(COUNT)])
    return shows(EVEN[:10], range(0, COUNT, 2))


def motion_jpeg(path: Path) -> Odd:
    options = {"qmin": "1", "qmax": "2"}
    Film(codec="mjpeg", pix_fmt="yuvj420p", options=options, full_range=True, matrix=5).write(path, cards())
    return shows()


def damaged(path: Path) -> Odd:
    """Between two key pictures it holds noise; what is drawn upon that is left out."""
    Film(options={**LOSSLESS, "g": "5"}).write(path, cards())
    content = bytearray(path.read_bytes())
    at = content.find(b"mdat") + 1400
    content[at : at + 250] = np.random.default_rng(0).bytes(250)
    path.write_bytes(content)
    return shows([*EVEN[:5], *EVEN[10:]], [*range(5), *range(10, 20)], lost="damaged pictures are left out")


def long_gap(path: Path) -> Odd:
    """Nothing is shown for five minutes in its middle."""
    Film().write(path, cards(), [*EVEN[:10], *(time + 300 for time in EVEN[10:])])
    return shows(lost="there is no picture for 300 s")


def turned_stills(path: Path) -> Odd:
    """Photos that EXIF says to turn, in capitals as cameras write them."""
    path.mkdir()
    for i in range(8):
        photo = Image.fromarray(np.rot90(card(i, (96, 128))))
        exif = photo.getexif()
        exif[0x112] = 6
        photo.save(path / f"IMG_{i}.JPG", exif=exif, quality=95)
    return shows(EVEN[:8])


def sound_alone(path: Path) -> Odd:
    with av.open(str(path), "w") as container:
        sound: Any = container.add_stream("aac", rate=48000)
        heard = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        heard.sample_rate = 48000
        container.mux(sound.encode(heard))
        container.mux(sound.encode())
    return Odd(reason="it holds no video, only sound")


def folder_like_a_video(path: Path) -> Odd:
    path.mkdir()
    return Odd(reason="it is an empty folder")


def link_to_nothing(path: Path) -> Odd:
    path.symlink_to("nowhere.mp4")
    return Odd(reason="it is a link to nothing")


def link_to_another(path: Path) -> Odd:
    path.symlink_to("cut.mp4")
    return Odd(reason="it is the same file as cut.mp4")


FILES: dict[str, Callable[[Path], Odd]] = {
    "variable_rate.mp4": variable_rate,
    "jittered.mkv": jittered,
    "turned_90.mp4": rotated,
    "turned_180.mp4": lambda path: rotated(path, 2),
    "turned_270.mov": lambda path: rotated(path, 3),
    "mirrored.mp4": lambda path: rotated(path, 1, mirrored=True),
    "hevc_10_bit.mp4": hevc_10_bit,
    "853x481.mp4": odd_size,
    "portrait.mp4": portrait,
    "grey.mp4": grey,
    "audio_first.mp4": audio_first,
    "vp9.webm": vp9,
    "animated.gif": gif,
    "full_range.mp4": full_range,
    "bt601.mp4": bt601,
    "interlaced.mp4": interlaced,
    "anamorphic.mp4": anamorphic,
    "edit_list.mp4": edit_list,
    "truncated_tail.mp4": truncated_tail,
    "truncated.mkv": truncated_mkv,
    "no_moov.mp4": no_moov,
    "empty.mp4": empty,
    "text.mp4": text,
    "one_frame.mp4": one_frame,
    "three_frames.mp4": three_frames,
    "三_café.mp4": plain,
    "two_sizes/large.mp4": lambda path: plain(path, size=(96, 128)),
    "two_sizes/small.mp4": plain,
    "cut.mp4": cut,
    "stills": stills,
    "see_through.gif": see_through,
    "animated.webp": animated_webp,
    "without_times.mkv": without_times,
    "twice_each_time.mkv": twice_each_time,
    "motion_jpeg.avi": motion_jpeg,
    "damaged.mp4": damaged,
    "long_gap.mp4": long_gap,
    "turned_stills": turned_stills,
    "sub/folder/UPPER.MOV": plain,
    "sub/100%d: *?.mp4": plain,
    "sound_alone.mp4": sound_alone,
    "folder.mp4": folder_like_a_video,
    "z_link_to_nothing.mp4": link_to_nothing,
    "z_link.mp4": link_to_another,
}


def write_all(folder: Path) -> dict[str, Odd]:
    """All but the two hours of black."""
    odd = {}
    for name, write in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        odd[name] = write(folder / name)
    return odd


if __name__ == "__main__":
    write_all(Path(sys.argv[1]))
    black(Path(sys.argv[1]) / "two_hours.mp4")
