"""Reading a recording at other sizes, through the store and through windows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tokenizer.clip import Episode, halve, shrink
from tokenizer.frames import picture_size
from tokenizer.state_schema import StateSchema
from train.data.clips import ClipDataModule, ClipDataset
from train.data.episode_store import EpisodeStore
from train.data.episode_writer import EpisodeWriter, RecordingConfig

SCHEMA = StateSchema(name="stripes", frames_per_step=1)
HEIGHT, WIDTH = 48, 96
LEFT = 40  # where the white third begins


def stripes(index: int = 0) -> Episode:
    """A picture wider than high: noise, and a white block that the entity map knows."""
    rng = np.random.default_rng(index)
    frames = rng.integers(0, 100, (3, HEIGHT, WIDTH, 3), dtype=np.uint8)
    frames[:, 12:36, LEFT : LEFT + 32] = 255
    labels = (frames[:, ::2, ::2, 0] == 255).astype(np.uint8)
    return Episode(frames=frames, segmentation=labels, frames_per_step=1)


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stripes")
    config = RecordingConfig(schema=SCHEMA, size=(HEIGHT, WIDTH), segmentation=(24, 48), settings={})
    writer = EpisodeWriter(folder, config)
    with writer.shard(0) as shard:
        for index in range(2):
            shard.add(index, stripes(index), ("train", "validation")[index])
    writer.consolidate()
    return folder


def read(folder: Path, resolution: Any, **how: Any) -> Episode:
    return EpisodeStore(folder).read(0, resolution, segmentation=True, **how)


def test_all_half_and_a_quarter_are_exact_means_of_pixels(recording: Path) -> None:
    whole = stripes().frames
    assert np.array_equal(read(recording, None).frames, whole)
    assert np.array_equal(read(recording, (24, 48)).frames, halve(whole))
    assert np.array_equal(read(recording, (12, 24)).frames, halve(halve(whole)))
    stored, read_at_a_quarter = stripes().segmentation, read(recording, (12, 24)).segmentation
    assert stored is not None
    assert read_at_a_quarter is not None
    assert np.array_equal(stored, read_at_a_quarter)


def test_area_is_the_mean_of_the_pixels_below_each(recording: Path) -> None:
    small = read(recording, (16, 32)).frames.astype(int)
    means = stripes().frames.reshape(3, 16, 3, 32, 3, 3).mean((2, 4))
    assert np.abs(small - means).max() <= 1
    sharp = read(recording, (16, 32), resample="lanczos").frames.astype(int)
    assert np.abs(sharp - means).max() > 3


def test_another_aspect_is_cropped_or_letterboxed_by_choice_and_refused_without(recording: Path) -> None:
    with pytest.raises(ValueError, match=r"48x96 .* another aspect than 24x24: choose fit crop"):
        read(recording, 24)
    cropped = read(recording, 24, fit="crop").frames.astype(int)
    assert np.abs(cropped - halve(stripes().frames)[:, :, 12:36]).max() <= 1
    boxed = read(recording, 48, fit="letterbox").frames
    assert boxed.shape == (3, 48, 48, 3)
    assert (boxed[:, :12] == 0).all()
    assert (boxed[:, 36:] == 0).all()
    assert np.abs(boxed[:, 12:36].astype(int) - halve(stripes().frames)).max() <= 1


@pytest.mark.parametrize(("resolution", "fit"), [((20, 40), None), (30, "crop"), (30, "letterbox"), ((72, 144), None)])
def test_the_entity_map_goes_with_the_frames(recording: Path, resolution: Any, fit: Any) -> None:
    seen = read(recording, resolution, fit=fit)
    assert seen.segmentation is not None
    assert seen.segmentation.shape == seen.frames.shape[:3] == (3, *picture_size(resolution))
    assert set(np.unique(seen.segmentation)) == {0, 1}
    white = seen.frames.min(-1) > 180
    assert (white == (seen.segmentation == 1)).mean() > 0.93
    assert (seen.segmentation[white] == 1).mean() > 0.9


def test_unknown_ways_are_refused_with_those_there_are(recording: Path) -> None:
    for how, sentence in (({"fit": "squash"}, "crop or letterbox"), ({"resample": "cubic"}, "area or lanczos")):
        with pytest.raises(ValueError, match=sentence):
            read(recording, 24, **how)
    for wrong in (0, (24,), (24, 24, 3), (24.5, 24)):
        with pytest.raises(ValueError, match="a number of pixels or"):
            read(recording, wrong)


def test_windows_come_at_any_size_and_a_run_goes_on_only_with_its_own(recording: Path, tmp_path: Path) -> None:
    kept = {"num_steps": 2, "cache_folder": tmp_path}
    assert ClipDataset(recording, resolution=(16, 32), **kept)[0]["frames"].shape == (3, 16, 32, 3)
    cropped = ClipDataset(recording, resolution=16, fit="crop", segmentation=True, **kept)[0]
    assert cropped["frames"].shape == (3, 16, 16, 3)
    assert cropped["segmentation"].shape == (3, 16, 16)
    boxed = ClipDataset(recording, resolution=16, fit="letterbox", segmentation=True, **kept)[0]
    assert not (boxed["frames"] == cropped["frames"]).all()
    began = ClipDataModule(str(recording), resolution=[16, 32], fit="crop").state_dict()
    ClipDataModule(str(recording), resolution=[16, 32], fit="crop").load_state_dict(began)
    for other in ({"resolution": [32, 16]}, {"fit": "letterbox"}, {"resample": "lanczos"}):
        settings: dict[str, Any] = {"resolution": [16, 32], "fit": "crop", **other}
        with pytest.raises(ValueError, match=f"began with {next(iter(other))}"):
            ClipDataModule(str(recording), **settings).load_state_dict(began)


def test_frames_shrink_only_to_what_is_made_of_their_halves() -> None:
    frames = stripes().frames
    assert shrink(frames, (12, 24)).shape == (3, 12, 24, 3)
    assert shrink(frames, (48, 96)) is frames
    for wrong in (12, (24, 24), (6, 13), (96, 192)):
        with pytest.raises(ValueError, match="48x96 pixels are no"):
            shrink(frames, wrong)
