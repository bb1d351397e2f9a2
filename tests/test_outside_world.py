"""A world that stands in none of the four packages goes the whole way: nothing here knows it but by its name."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Iterator
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch

from demo.app import build_app
from demo.server import listen, served
from train import check_world, evaluate, export, record, tokenize
from train.running import cli
from train.running.checkpoint import read_checkpoint
from worldmodel.world import World

from .demo.test_play_socket import player

OUTSIDE = Path(__file__).parent / "outside_world"
CONFIGS = Path(__file__).parents[1] / "train" / "configs"
TOKENIZER = {
    "resolution": 16,
    "frames_per_step": 2,
    "patch": 2,
    "encoder_width": 12,
    "encoder_blocks": 1,
    "decoder_width": 12,
    "decoder_blocks": 1,
    "detail_width": 8,
    "detail_blocks": 1,
    "quantizer": {"kind": "fsq", "levels": [4, 4]},
}
DYNAMICS = {
    "width": 24,
    "depth": 1,
    "heads": 2,
    "window": 2,
    "max_text": 12,
    "tokens_per_pass": [16],
    "code_levels": [4, 4],
    "read_outcome": True,
}


@pytest.fixture(autouse=True)
def pond_is_installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Its folder also holds the ``dist-info`` by which an installed package registers its world."""
    monkeypatch.syspath_prepend(str(OUTSIDE))
    yield
    sys.modules.pop("pond", None)


def given(*arguments: object) -> list[str]:
    return [json.dumps(a) if isinstance(a, dict) else str(a) for a in arguments]


def fit(work: Path, name: str, *configs: str, **init_args: object) -> Path:
    """A few steps of training; the run's checkpoint."""
    folder = work / "runs" / name
    options = [f"--config={CONFIGS / config}.yaml" for config in (*configs, "trainer/tiny")]
    for key, value in init_args.items():
        part, argument = key.split("__")
        options.append(f"--{part}.init_args.{argument}={json.dumps(value) if isinstance(value, dict) else value}")
    cli.main(["fit", *options, f"--trainer.default_root_dir={folder}"])
    return folder / "last.ckpt"


@pytest.mark.parametrize("name", ["pond", "pond:RECIPE"])
def test_it_is_found_by_its_entry_point_and_by_its_module(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert check_world.main([name]) == 0
    assert capsys.readouterr().out == f"{name} keeps the contract\n"


def test_it_is_recorded_tokenised_trained_exported_evaluated_and_played(tmp_path: Path) -> None:
    recording, tokens, states = (tmp_path / name for name in ("recording", "tokens", "states"))
    tokenizer, world = tmp_path / "tokenizer", tmp_path / "world"
    few = given("--episodes", 40, "--steps", 10, "--workers", 1)
    assert record.main([*given("--world", "pond", "--out", recording), *few]) == 0

    checkpoint = fit(
        tmp_path,
        "tokenizer",
        "tokenizer/small",
        model__config=TOKENIZER,
        model__schema="null",
        data__recording=recording,
        data__resolution=16,
        data__segmentation="false",
        data__batch_size=4,
    )
    assert export.main(given("--tokenizer", checkpoint, "--out", tokenizer)) == 0
    simulate = given("--world", "pond", "--simulate", 40, "--steps", 10, "--tokenizer", tokenizer, "--workers", 1)
    assert tokenize.main([*simulate, *given("--out", states)]) == 0
    words = given("--text", states / "text.model")
    assert tokenize.main([*given("--recording", recording, "--tokenizer", tokenizer, "--out", tokens), *words]) == 0

    size, batch = "dynamics/size_small", {"model__config": DYNAMICS, "data__batch_size": 4, "data__num_blocks": 4}
    first = fit(tmp_path, "state", size, "dynamics/stage_state", model__tokens=states, **batch)
    whole = {"model__tokens": tokens, "model__start_from": first, "model__mode_shares": "null"}
    dynamics = fit(tmp_path, "video", size, "dynamics/stage_video", **whole, **batch)
    parts = given("--tokenizer", tokenizer, "--tokens", tokens, "--dynamics", dynamics)
    assert export.main([*parts, *given("--world-recipe", "pond", "--out", world)]) == 0
    about = json.loads((world / "world.json").read_text(encoding="utf-8"))
    assert (about["recipe"], about["page"]["name"], about["sampling"]["guidance"]) == ("pond", "Pond", 1.5)

    numbers, report = tmp_path / "numbers.json", tmp_path / "report"
    asked = given("--world", world, "--recording", recording, "--quick", "--episodes", 2)
    assert evaluate.main([*asked, *given("--split", "train", "--json", numbers, "--report", report)]) == 0
    figures = json.loads(numbers.read_text(encoding="utf-8"))
    assert set(figures) == {"about", "tokenizer", "rollout", "speed", "text", "caption", "shores", "verdict"}
    assert figures["about"]["recipe"] == "pond"
    assert "others_error_8" not in figures["rollout"]

    played = World.from_pretrained(world)
    step = played.start("a red leaf on the left", seed=1).step("right")
    assert step.frames.shape == (1, 2, 16, 16, 3)
    assert torch.isfinite(step.state).all()
    env = gymnasium.make("worldmodel:WorldModel-v0", world=world)
    observation, _ = env.reset(seed=0)
    assert observation.shape == (16, 16, 3)
    assert env.step(env.action_space.sample())[0].shape == (16, 16, 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["pond:FILM", pytest.param("pond:TILLER", marks=pytest.mark.slow)])
def test_frames_alone_go_the_whole_way_at_one_frame_a_step(name: str, tmp_path: Path) -> None:
    """Wider than high, without states or captions; nobody steers the film, the tiller is two numbers."""
    recording, tokens, tokenizer, world = (tmp_path / part for part in ("recording", "tokens", "tokenizer", "world"))
    few = given("--episodes", 40, "--steps", 8, "--workers", 1)
    assert record.main([*given("--world", name, "--out", recording), *few]) == 0
    checkpoint = fit(tmp_path, "tokenizer", "tokenizer/pixels_tiny", data__recording=recording)
    assert export.main(given("--tokenizer", checkpoint, "--out", tokenizer)) == 0
    assert tokenize.main(given("--recording", recording, "--tokenizer", tokenizer, "--out", tokens)) == 0
    assert not (tokens / "text.model").exists()
    dynamics = fit(tmp_path, "video", "dynamics/pixels_tiny", model__tokens=tokens)
    derived = read_checkpoint(dynamics)["hyper_parameters"]["config"]
    assert (derived["tokens_per_pass"], derived["code_levels"], derived["max_text"]) == ([6, 3], [5, 5, 4], 0)
    parts = given("--tokenizer", tokenizer, "--tokens", tokens, "--dynamics", dynamics, "--world-recipe", name)
    assert export.main([*parts, *given("--out", world)]) == 0

    numbers = tmp_path / "numbers.json"
    asked = given("--world", world, "--recording", recording, "--quick", "--episodes", 2, "--split", "train")
    assert evaluate.main([*asked, *given("--json", numbers, "--report", tmp_path / "report")]) == 0
    figures = json.loads(numbers.read_text(encoding="utf-8"))
    assert set(figures) == {"about", "tokenizer", "rollout", "speed", "verdict"}
    assert not [key for key in figures["rollout"] if "error" in key]
    assert {"reward_events", "terminated_events"} <= set(figures["rollout"])  # recorded beside the pictures
    assert ("delta_psnr_8_db" in figures["rollout"]) == (name == "pond:TILLER")

    played = World.from_pretrained(world)
    frames = torch.randint(0, 256, (17, 16, 24, 3), dtype=torch.uint8)
    step = played.start(frames=frames, seed=1).step(played.actions.idle())
    assert step.frames.shape == (1, 1, 16, 24, 3)

    env = gymnasium.make("worldmodel:WorldModel-v0", world=world, render_mode="rgb_array")
    assert env.action_space == (played.actions.space or gymnasium.spaces.Discrete(1))
    env.reset(seed=0, options={"frames": frames})
    for _ in range(3):
        observation, reward, terminated, _, _ = env.step(env.action_space.sample())
        assert np.array_equal(observation, np.asarray(env.render()))
        assert reward in (0.0, 0.5)  # as it was recorded
        if terminated:  # four training steps teach little of when a day ends
            env.reset(seed=1, options={"frames": frames})
    with served(build_app(played), listen("127.0.0.1", 0)) as url:
        asyncio.run(play_on_the_page(url))


async def play_on_the_page(url: str) -> None:
    async with player(url.replace("http", "ws") + "play") as me:
        await me.start()
        header, pixels = await me.hear_of("picture", time=1)  # the day may end after any step
        assert (header["height"], header["width"], len(pixels)) == (16, 24, 16 * 24 * 3)
