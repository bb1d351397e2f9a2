"""Time is shared out so that the stages fill it, whatever this machine's pace."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from train.making.plan import LEAST, Plan, Speeds, share_out
from train.worlds.contract import Stage

PACE = st.floats(1e-3, 2.0)


def speeds(**changes: float | None) -> Speeds:
    usual = {"start": 5.0, "episode": 0.2, "frames": 65.0, "tokenize": 1e-3, "tokenizer": 0.1, "dynamics": 0.3}
    return Speeds(**{**usual, "evaluate": 30.0, **changes})  # type: ignore[arg-type]


@given(tokenizer=PACE, dynamics=PACE, episode=PACE, latent=st.none() | PACE, minutes=st.floats(8, 120))
def test_the_stages_fill_the_time(
    tokenizer: float, dynamics: float, episode: float, latent: float | None, minutes: float
) -> None:
    pace = speeds(tokenizer=tokenizer, dynamics=dynamics, episode=episode, latent=latent)
    amounts, expected = share_out(60 * minutes, pace, most=600, sample=32)
    assert set(amounts) == {"record", "tokenizer", "dynamics"} | ({"latent actions"} if latent else set())
    assert 32 <= amounts["record"] <= 600
    least = sum(LEAST * pace for pace in (tokenizer, dynamics, latent or 0))
    assert sum(expected.values()) == pytest.approx(60 * minutes, rel=0.1, abs=least + 3)
    assert expected["tokenizer"] <= 0.45 * 60 * minutes + LEAST * tokenizer + 5


def test_little_time_gives_each_training_its_least() -> None:
    amounts, _ = share_out(10, speeds(), most=600, sample=32)
    assert amounts == {"record": 32, "tokenizer": LEAST, "dynamics": LEAST}


def test_a_source_that_is_whole_is_not_recorded() -> None:
    amounts, expected = share_out(600, speeds(episode=None), most=600, sample=32)
    assert "record" not in amounts
    assert "record" not in expected


def test_the_last_training_gets_what_those_before_it_left(tmp_path: Path) -> None:
    amounts, expected = share_out(600, speeds(), most=600, sample=32)
    pace = {"start": 5.0, "tokenizer": 0.1, "dynamics": 0.3}
    plan = Plan(options={"env": "x"}, amounts=amounts, expected=expected, speeds=pace)
    keep = plan.keeper(tmp_path)
    for name in ("record", "tokenizer", "export tokenizer", "tokenize"):
        keep(Stage(name=name, proof=tmp_path / name, command=()), 1.3 * expected[name])  # slower than thought
    before = plan.amounts["dynamics"]
    plan.refill("dynamics", 600, tmp_path)
    assert LEAST <= plan.amounts["dynamics"] < before
    assert plan.gone + plan.left == pytest.approx(600, abs=2 + LEAST * 0.3)
    assert Plan.load(tmp_path) == plan


def test_a_training_is_planned_again_by_what_is_measured_when_it_begins(tmp_path: Path) -> None:
    amounts, expected = share_out(3600, speeds(latent=0.1), most=600, sample=32)
    pace = {"start": 5.0, "latent": 0.1, "tokenizer": 0.1, "dynamics": 0.3}
    plan = Plan(options={"env": "x"}, amounts=dict(amounts), expected=expected, speeds=pace)
    keep = plan.keeper(tmp_path)
    keep(Stage(name="record", proof=tmp_path / "record", command=()), expected["record"])
    plan.refill("latent actions", 3600, tmp_path)
    assert plan.amounts["latent actions"] == pytest.approx(amounts["latent actions"], rel=0.02)
    plan.refill("latent actions", 3600, tmp_path, each=0.2)  # half as fast now
    assert plan.amounts["latent actions"] == pytest.approx(amounts["latent actions"] / 2, rel=0.02)
    keep(Stage(name="latent actions", proof=tmp_path / "x", command=()), 3 * expected["latent actions"])
    plan.refill("tokenizer", 3600, tmp_path)
    assert LEAST < plan.amounts["tokenizer"] < 0.8 * amounts["tokenizer"]  # it bears its share of the delay


def test_a_broken_plan_is_refused_with_a_sentence(tmp_path: Path) -> None:
    assert Plan.load(tmp_path) is None
    (tmp_path / "plan.json").write_text('{"options": ', encoding="utf-8")
    with pytest.raises(ValueError, match=r"is broken .* delete"):
        Plan.load(tmp_path)
