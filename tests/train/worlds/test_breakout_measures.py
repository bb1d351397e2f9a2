"""What is said of imagined Breakout, held against pictures and states that are right or wrong on purpose."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from train.worlds.breakout.measures import Ball, _counts, _judged
from train.worlds.breakout.schema import breakout_schema

SCHEMA = breakout_schema()
BRICK = 18 * 5 + 9  # in the lowest row, worth one point, at (42, 29.5)


def state(ball: tuple[float, float] | None = (40.5, 50.5), gone: int | None = None, score: int = 0, lives: str = "3"):
    edit = {"ball": {"position": ball, "present": True} if ball else {"present": False}, "game": {"score": score}}
    edit["game"]["lives"] = lives
    out = SCHEMA.write(torch.ones(SCHEMA.num_values), edit)
    if gone is not None:
        out[SCHEMA.columns("wall", "bricks").start + gone] = 0
    return out


def picture(*balls: tuple[int, int], gone: int | None = None) -> Tensor:
    """A wall without one brick, and balls of one by two pixels from (x, y) on."""
    out = torch.zeros(80, 80, 3, dtype=torch.uint8)
    out[13:31, 4:76] = 120
    if gone is not None:
        row, column = divmod(gone, 18)
        out[13 + 3 * row : 16 + 3 * row, 4 + 4 * column : 8 + 4 * column] = 0
    for x, y in balls:
        out[y : y + 2, x] = torch.tensor([200, 72, 72], dtype=torch.uint8)
    return out


def shares(shown: Tensor, before: Tensor, after: Tensor) -> dict[str, float | None]:
    judged = _judged(SCHEMA, shown[None, None], torch.stack([before, after])[None])
    counts = {name: _counts(*part) for name, part in judged.items()}
    return {name: float(good) / float(asked) if asked else None for name, (good, asked) in counts.items()}


def test_a_ball_is_seen_where_it_is_and_alone():
    seen = Ball.seen(torch.stack([picture((40, 50)), picture((40, 50), (60, 40)), picture()]))
    torch.testing.assert_close(seen.place[0], torch.tensor([40.5, 51.0]))
    assert seen.one.tolist() == [True, False, False]
    assert seen.none.tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("shown", "one", "agrees"),
    [(picture((40, 50)), 1, 1), (picture((47, 50)), 1, 0), (picture((40, 50), (60, 60)), 0, 0), (picture(), 0, 0)],
)
def test_one_ball_is_asked_for_where_the_state_has_it(shown: Tensor, one: float, agrees: float):
    found = shares(shown, state(), state())
    assert (found["one_ball"], found["ball_agrees"], found["no_ball"]) == (one, agrees, None)


def test_without_a_ball_none_is_to_be_seen():
    assert shares(picture(), state(None), state(None))["no_ball"] == 1
    assert shares(picture((40, 50)), state(None), state(None))["no_ball"] == 0


def test_bricks_go_when_hit_and_score():
    near, far = (42.5, 34.5), (10.5, 60.5)
    hit = shares(picture(gone=BRICK), state(near), state(near, gone=BRICK, score=1))
    names = ("bricks_shown", "bricks_gone_by_a_hit", "score_agrees", "bricks_stay_gone")
    assert [hit[name] for name in names] == [1, 1, 1, 1]
    missed = shares(picture(), state(far), state(far, gone=BRICK, score=7))
    assert missed["bricks_shown"] == pytest.approx(107 / 108)
    assert (missed["bricks_gone_by_a_hit"], missed["score_agrees"]) == (0, 0)
    assert shares(picture(), state(near, gone=BRICK), state(near, gone=3))["bricks_stay_gone"] == 0


def test_a_life_is_lost_with_the_ball():
    assert shares(picture(), state(), state(None, lives="2"))["lives_lost_with_the_ball"] == 1
    assert shares(picture(), state(), state(lives="2"))["lives_lost_with_the_ball"] == 0
