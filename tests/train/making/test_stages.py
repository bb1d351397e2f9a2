"""What is recorded fits into memory, and no window is longer than most episodes are."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from train.making import stages
from train.making.sources import Source
from train.making.stages import AMOUNTS, Making


class _Store:
    """A recording of episodes of so many latent frames, of four frames a step."""

    path, size = Path("recording"), (100, 100)
    lengths: tuple[int, ...] = ()

    def __init__(self, _: Path) -> None:
        pass

    def split(self, name: str) -> list[int]:
        return list(range(len(self.lengths))) if name == "train" else []

    def span(self, index: int, _: str) -> range:
        return range(self.lengths[index])

    def num_frames(self, index: int) -> int:
        return 1 + 4 * (self.lengths[index] - 1)


def making(monkeypatch: pytest.MonkeyPatch, lengths: tuple[int, ...], size: str = "small", *, state: bool) -> Making:
    monkeypatch.setattr(_Store, "lengths", lengths)
    monkeypatch.setattr(stages, "EpisodeStore", _Store)
    source = Source(name="game", said=(), recording=Path("recording"), state=state)
    return Making(source=source, size=size, work=Path("work"), out=Path("out"))


def given(made: Making, name: str) -> dict[str, str]:
    (stage,) = [stage for stage in made.fitted().stages(AMOUNTS[made.size]) if stage.name == name]
    words = [part.removeprefix("--data.init_args.") for part in stage.command]
    return dict(pairwise(words))


def test_no_more_is_recorded_than_training_keeps_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    short, long = (making(monkeypatch, (n, n), state=False).most_episodes for n in (26, 2501))
    assert short == AMOUNTS["small"]["record"]
    assert long == 11  # of 10,001 frames of 30,000 bytes each, in 3.5 gigabytes


@pytest.mark.parametrize(
    ("size", "lengths", "state", "expected"),
    [
        ("small", (400,) * 4, False, None),  # its own
        ("small", (9, 16, 400, 400), False, "16"),  # three of four have such windows
        ("small", (400,) * 4, True, "12"),
        ("small", (9, 10, 400, 400), True, "10"),
        ("tiny", (16,) * 4, False, "4"),  # its own, which is shorter
        ("tiny", (3,) * 4, False, "3"),
    ],
)
def test_windows_are_as_long_as_most_episodes(
    monkeypatch: pytest.MonkeyPatch, size: str, lengths: tuple[int, ...], state: bool, expected: str | None
) -> None:
    assert given(making(monkeypatch, lengths, size, state=state), "dynamics").get("num_blocks") == expected


def test_a_tokenizers_windows_fit_into_short_episodes(monkeypatch: pytest.MonkeyPatch) -> None:
    steps = [given(making(monkeypatch, (n,) * 4, state=False), "tokenizer").get("num_steps") for n in (400, 16, 3)]
    assert steps == [None, "2", "1"]
