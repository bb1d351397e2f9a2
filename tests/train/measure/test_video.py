"""What is measured of videos, held against videos made to a known fault."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import cv2
import numpy as np
import pytest
import torch

from tokenizer.quantizer import QuantizerConfig
from tokenizer.video_tokenizer import VideoTokenizer, VideoTokenizerConfig
from train.data.shot_cuts import Shown, split_at_cuts
from train.measure.video import (
    MAWE_SCALE,
    MAWE_SIDE,
    Series,
    Watch,
    against,
    faults,
    frechet_distance,
    measure_video,
    video_features,
)

FPS, SIDE, COUNT = 15.0, 96, 180
_DRAWN = np.random.default_rng(0)
FIELD = cv2.GaussianBlur(_DRAWN.normal(size=(400, 600, 3)), (0, 0), 3)
FIELD = (127 + 40 * FIELD / FIELD.std()).clip(0, 255).astype(np.float32)


def at(x: int, y: int = 0) -> np.ndarray:
    return FIELD[y : y + SIDE, x : x + SIDE]


def pan() -> np.ndarray:
    """A camera that moves a pixel to the right in each picture: float32 (T, H, W, 3)."""
    return np.stack([at(x) for x in range(COUNT)])


def still() -> np.ndarray:
    return np.stack([at(0)] * COUNT)


def frozen() -> np.ndarray:
    return np.stack([at(x if x < 60 else max(60, x - 45)) for x in range(COUNT)])


def loop() -> np.ndarray:
    turns = 2 * np.pi * np.arange(COUNT) / 30
    return np.stack([at(round(50 + 12 * np.cos(a)), round(50 + 12 * np.sin(a))) for a in turns])


def cut() -> np.ndarray:
    return np.stack([at(x) if x < 90 else at(x, 250) for x in range(COUNT)])


def drift() -> np.ndarray:
    return pan() + np.linspace(0, 60, COUNT)[:, None, None, None] * np.array([1, 0, -1])


def flicker() -> np.ndarray:
    return pan() + 255 * 0.02 * (-1.0) ** np.arange(COUNT)[:, None, None, None]


def seen(video: np.ndarray) -> Series:
    watch = Watch(FPS)
    pictures = video.round().clip(0, 255).astype(np.uint8)
    for shown in split_at_cuts(Shown(picture, number, number == 0) for number, picture in enumerate(pictures)):
        watch.see(shown.pixels, begins=shown.begins)
    return watch.series()


@cache
def of(video: Callable[[], np.ndarray]) -> Series:
    return seen(video())


@pytest.mark.parametrize(
    ("video", "kinds"),
    [(pan, set()), (still, {"still"}), (frozen, {"freeze"}), (loop, {"loop"}), (cut, {"cut"}), (drift, {"drift"}),
     (flicker, {"flicker"})],
)  # fmt: skip
def test_each_fault_is_found_and_by_no_other_measure(video, kinds: set[str]):
    assert faults(measure_video(of(video))).keys() == kinds


def test_faults_are_told_where_they_are():
    assert measure_video(of(frozen))["freezes"][0] == pytest.approx([60 / FPS, 105 / FPS], abs=1.5 / FPS)
    assert measure_video(of(cut))["cut_times"] == [pytest.approx(90 / FPS)]
    assert measure_video(of(loop))["loops"][0][2] == pytest.approx(30 / FPS)
    assert measure_video(of(flicker))["flicker"] == pytest.approx(0.02, rel=0.05)


def test_the_warp_error_of_a_pan_is_that_of_its_noise():
    noise = 2.0
    series = seen(pan() + np.random.default_rng(1).normal(0, noise, (COUNT, SIDE, SIDE, 3)))
    numbers = measure_video(series)
    steps = series.steps
    assert np.nanmean(series.flow[steps]) == pytest.approx(MAWE_SIDE / SIDE, rel=0.1)
    assert np.nanmean(series.warp_error[steps]) == pytest.approx(2 * noise**2, rel=0.25)
    assert numbers["mawe"] == pytest.approx(2 * noise**2 / (MAWE_SCALE * MAWE_SIDE / SIDE), rel=0.3)
    assert numbers["temporal_variance"] == pytest.approx(2**0.5 * noise / 255, rel=0.15)
    assert numbers["motion"] == pytest.approx(FPS / SIDE, rel=0.15)
    assert measure_video(of(still))["mawe"] is None


def test_a_video_is_like_itself_and_unlike_one_that_moves_otherwise():
    there, back = of(pan), seen(pan()[::-1])
    real, turned = measure_video(there), measure_video(back)
    same, other = against([there], [real], [there], [real]), against([back], [turned], [there], [real])
    assert same["mawe"] == same["motion"] == 1
    assert same["vectors"] == 0
    assert other["motion"] == pytest.approx(1, abs=0.1)
    assert other["vectors"] > 0.8


def test_distance_grows_with_what_is_done_to_videos():
    torch.manual_seed(0)
    tokenizer = VideoTokenizer(VideoTokenizerConfig(resolution=32, quantizer=QuantizerConfig(levels=(4, 4, 4))))
    r = tokenizer.frames_per_step

    def windows(noise: float, first: int) -> torch.Tensor:
        shown = [
            FIELD[y : y + 32, x + t : x + t + 32]
            for x, y in zip(_places(first, 500), _places(first + 1, 350), strict=True)
            for t in range(1 + 4 * r)
        ]
        video = np.stack(shown) + np.random.default_rng(first).normal(0, noise, (len(shown), 32, 32, 3))
        return torch.from_numpy(video.clip(0, 255).astype(np.uint8)).unflatten(0, (-1, 1 + 4 * r))

    real, alike, noisy, worse = (
        video_features(tokenizer, windows(noise, first)) for noise, first in ((0, 0), (0, 2), (10, 4), (40, 6))
    )
    distances = [frechet_distance(other, real) or 0.0 for other in (real, alike, noisy, worse)]
    assert distances == sorted(distances)
    assert distances[0] == pytest.approx(0, abs=1e-6)
    assert distances[2] > 2 * distances[1]
    assert frechet_distance(real[:8], real) is None


def _places(seed: int, most: int) -> list[int]:
    return np.random.default_rng(100 + seed).integers(0, most, 64).tolist()


def test_distance_of_gaussians_is_as_known():
    draw = np.random.default_rng(0)
    a, b = draw.normal(size=(20_000, 4)), draw.normal(size=(20_000, 4)) * 2 + np.array([3, 0, 0, 0])
    assert frechet_distance(b, a) == pytest.approx(9 + 4 * (2 - 1) ** 2, rel=0.05)
