import av
import numpy as np
import pytest

from train.running.videos import write_mp4


def test_a_written_video_shows_the_frames(tmp_path):
    frames = np.zeros((7, 15, 9, 3), np.uint8)
    frames[3:] = (200, 40, 40)
    write_mp4(tmp_path / "new" / "a.mp4", frames, fps=30, scale=3)
    with av.open(str(tmp_path / "new" / "a.mp4")) as container:
        shown = np.stack([frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)])
    assert shown.shape == (7, 46, 28, 3)
    assert np.abs(shown[:3].astype(int)).max() < 12
    assert np.abs(shown[3:].astype(int) - (200, 40, 40)).max() < 12


def test_frames_of_another_kind_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"uint8 \(frames, height, width, 3\), got float"):
        write_mp4(tmp_path / "a.mp4", np.zeros((2, 8, 8, 3)))
