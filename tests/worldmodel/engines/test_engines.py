"""Whoever computes a step, the same comes of it."""

from __future__ import annotations

import json
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode

from tokenizer.causal_conv import StreamingCache
from worldmodel import bench
from worldmodel.beginning import Beginning
from worldmodel.cache_folder import cache_folder
from worldmodel.engines.graph_engine import leaves, rebuilt
from worldmodel.engines.step import StepQuery, StepStart
from worldmodel.kv_cache import beyond_window
from worldmodel.rollout import Rollout
from worldmodel.sampling import Sampling
from worldmodel.world import World

from ..tiny_world import LIVELY, STATELESS, VALUES, tiny_world


@pytest.fixture
def _graphs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))


def fast(world: World, engine: str = "openvino") -> World:
    return World(
        schema=world.schema, text=world.text, tokenizer=world.tokenizer, dynamics=world.dynamics, engine=engine
    )


class NothingFromTheHost(TorchFunctionMode):
    """Fails where a CUDA graph could not be captured, on any machine: "meta" stands for the device here."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        name, given = getattr(func, "__name__", ""), [a for a in args if isinstance(a, torch.Tensor)]
        kept = any(tensor.is_meta for tensor in given)
        assert name not in ("tensor", "new_tensor", "as_tensor"), "a constant from the host: make it a buffer"
        assert not (kept and name in ("item", "tolist", "nonzero", "unique_consecutive", "__bool__", "__int__")), name
        assert len({tensor.device for tensor in given if tensor.dim()}) < 2, f"{name} of both host and device"
        if kept and name in ("__getitem__", "__setitem__"):
            places = args[1] if isinstance(args[1], tuple) else (args[1],)
            assert not any(isinstance(place, list) for place in places), "a list is copied to the device"
            assert all(place.is_meta for place in places if isinstance(place, torch.Tensor))
        made = func(*args, **(kwargs or {}))
        assert not (name == "to" and made.is_meta and not kept), "copied to the device"
        return made


@pytest.mark.parametrize("which", ["tiny", "without a view", "bundled"])
def test_a_step_can_be_captured_as_a_cuda_graph(which: str, monkeypatch: pytest.MonkeyPatch):
    if which == "bundled":
        world = World.from_pretrained("tabletop", device="cpu")
    else:
        world = tiny_world() if which == "tiny" else tiny_world(VALUES, show_values=True)
    rollout = world.start(seed=[0, 1], batch=2)
    for _ in range(2):
        rollout.step(0)
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # of which "meta" knows nothing
    layout, cache = world.dynamics.layout, rollout.cache
    cos, sin = world.dynamics.positions(torch.tensor(cache.clock), layout.step_place)
    chance = torch.rand(2, layout.num_state + layout.num_video)
    now, far = rollout.now, beyond_window(world.dynamics, cache.clock)
    start = on_meta(StepStart(cache.past(), far, now.state_ids, now.state, now.shown, now.video_ids))
    query = on_meta(StepQuery(torch.zeros(2, 1, dtype=torch.long), cos, sin, chance))
    pixels = on_meta(tuple(rollout.pixels.past.values()))
    for part in (world.dynamics, world.tokenizer, world.parts.codec):
        part.to("meta")

    def step() -> torch.Tensor:
        made = world.engine.step(rollout.sampling, start, query)
        kept = StreamingCache(2)
        kept.advance()
        kept.past = dict(zip(rollout.pixels.past, pixels, strict=True))
        return world.engine.decode(made.video_ids.unflatten(1, layout.grid), kept, made.state, made.state)

    with torch.inference_mode():
        step()  # what is made once is made
        with NothingFromTheHost():
            assert step().is_meta


def on_meta(what: Any) -> Any:
    return rebuilt(what, (tensor.to("meta") for tensor in leaves(what)))


@pytest.mark.gpu
@pytest.mark.parametrize("tokens_per_pass", [16, 4])
def test_cuda_graphs_agree_with_torch_through_edits_and_resets(tokens_per_pass: int):
    sampling = replace(LIVELY, tokens_per_pass=tokens_per_pass)
    worlds = [tiny_world().to("cuda"), fast(tiny_world().to("cuda"), "cuda_graph")]
    rollouts = [each.start(["a red ball", ""], seed=3, sampling=sampling) for each in worlds]
    assert_same(*rollouts, steps=6)  # type: ignore[misc]
    for rollout in rollouts:
        rollout.edit({"player": {"position": (0.3, -0.3), "colour": "green"}}, row=1)
        rollout.reset_rows([0], [Beginning(seed=9)])
        rollout.hold({"player": {"yaw": 0.5}})
    assert_same(*rollouts, steps=6)  # type: ignore[misc]


def test_an_engine_that_a_world_cannot_have_is_refused():
    with pytest.raises(ValueError, match="runs on CUDA devices and this world is on cpu: choose 'torch'"):
        fast(tiny_world(), "cuda_graph")
    with pytest.raises(ValueError, match="unknown engine 'steam'; choose from torch, openvino, cuda_graph"):
        fast(tiny_world(), "steam")


def assert_same(ours: Rollout, theirs: Rollout, steps: int) -> None:
    for t in range(steps):
        a, b = ours.step(t % 3), theirs.step(t % 3)
        assert torch.equal(ours.now.video_ids, theirs.now.video_ids)
        assert torch.equal(ours.now.state_ids, theirs.now.state_ids)
        torch.testing.assert_close(a.state, b.state, atol=1e-5, rtol=0)
        assert (a.frames.int() - b.frames.int()).abs().max() <= 1
        assert torch.equal(a.terminated, b.terminated)


@pytest.mark.usefixtures("_graphs")
@pytest.mark.parametrize(
    "sampling",
    [
        replace(LIVELY, tokens_per_pass=16),
        pytest.param(replace(LIVELY, tokens_per_pass=4), marks=pytest.mark.slow),
        pytest.param(replace(LIVELY, tokens_per_pass=4, state_tokens_per_pass=3), marks=pytest.mark.slow),
        pytest.param(Sampling(), marks=pytest.mark.slow),
    ],
)
def test_openvino_agrees_with_torch_through_edits_and_resets(sampling: Sampling):
    world = tiny_world(state_tokens_per_pass=(9, 3))
    rollouts = [each.start(["a red ball", ""], seed=3, sampling=sampling) for each in (world, fast(world))]
    assert_same(*rollouts, steps=6)  # type: ignore[misc]
    for rollout in rollouts:
        rollout.edit({"player": {"position": (0.3, -0.3), "colour": "green"}}, row=1)
        rollout.reset_rows([0], [Beginning(seed=9)])
    assert_same(*rollouts, steps=6)  # type: ignore[misc]


@pytest.mark.slow
@pytest.mark.usefixtures("_graphs")
def test_openvino_takes_worlds_without_a_state_a_view_or_anchors():
    values = tiny_world(VALUES, show_values=True)
    near = tiny_world(STATELESS, nearby_width=12, nearby_blocks=1)
    for world in (values, near, tiny_world(STATELESS), tiny_world(anchor_frames=0), tiny_world(state_sees_video=True)):
        assert_same(*(each.start(seed=3, sampling=LIVELY) for each in (world, fast(world))), steps=5)


@pytest.mark.slow
@pytest.mark.usefixtures("_graphs")
def test_graphs_are_kept_for_the_next_time_and_made_anew_for_other_weights(monkeypatch):
    from worldmodel.engines.openvino_engine import OpenVINOEngine

    world, exported = tiny_world(), []
    export = OpenVINOEngine._export
    monkeypatch.setattr(OpenVINOEngine, "_export", lambda *given: exported.append(1) or export(*given))

    def play(world: World) -> int:
        exported.clear()
        fast(world).start(seed=1).step(0)
        return len(exported)

    made = play(world)
    assert made == len(list((cache_folder() / "openvino").glob("*.xml"))) > 0
    assert play(world) == 0
    with torch.no_grad():
        world.dynamics.norm.weight.mul_(1.1)
    assert play(world) == made


def test_an_engine_that_cannot_be_had_says_what_to_do(monkeypatch):
    world = tiny_world()
    with pytest.raises(ValueError, match="unknown engine 'warp'; choose from torch, openvino"):
        World.from_pretrained("tabletop", engine="warp")
    monkeypatch.setitem(__import__("sys").modules, "openvino", None)
    with pytest.raises(ValueError, match=r"pip install 'worldmodel-stream\[fast\]'"):
        fast(world)


def test_the_benchmark_measures_every_part(tmp_path: Path, monkeypatch, capsys):
    world = tiny_world()
    monkeypatch.setattr(bench.World, "from_pretrained", lambda *_, engine, **__: world if engine == "torch" else None)
    monkeypatch.setattr(bench, "ENGINES", ("torch",))
    monkeypatch.setattr(bench, "bandwidth", lambda _: 10.0)
    monkeypatch.setattr(bench, "hugging_face_ms", lambda _: 5.0)
    out = tmp_path / "bench.json"
    assert (
        bench.main(["--steps", "10", "--batch", "2", "--threads", "1", "--raster-steps", "1", "--json", str(out)]) == 0
    )
    numbers = json.loads(out.read_text(encoding="utf-8"))
    assert {"simulate", "draw", "sample", "commit", "decode"} == set(numbers["parts_ms"])
    assert sum(numbers["parts_ms"].values()) <= 2 * numbers["step_ms"]["p50"]
    assert numbers["batch_2"]["step_ms"]["p50"] > 0
    assert set(numbers["modes"]) == {"16", "4", "1"}
    assert numbers["modes"]["1"]["parts_ms"]["draw"] > numbers["modes"]["16"]["parts_ms"]["draw"]
    assert numbers["raster"]["vs_hugging_face"] == pytest.approx(5 / numbers["raster"]["ms_per_id"], rel=0.01)
    assert "vs_hugging_face" in capsys.readouterr().out


def test_guidance_makes_a_scene_keep_more_to_its_caption():
    """With guidance g the logits are untold + g (told - untold): 0 is no caption at all, 1 the caption as it is."""
    world = tiny_world()

    def scenes(caption: str, guidance: float) -> torch.Tensor:
        sampling = replace(LIVELY, guidance=guidance)
        return world.start(caption, seed=list(range(6)), sampling=sampling).state

    assert torch.equal(scenes("a red ball", 0.0), scenes("two bodies", 0.0))
    assert torch.equal(scenes("", 3.0), scenes("", 1.0))
    assert not torch.equal(scenes("a red ball", 3.0), scenes("a red ball", 1.0))
