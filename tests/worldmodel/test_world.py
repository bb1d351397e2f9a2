"""A world as a whole: kept on disk and found again, and what it answers to whom."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import huggingface_hub
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from tokenizer.scene import StateReader
from tokenizer.state_codec import StateCodec
from tokenizer.text_tokenizer import TextTokenizer
from worldmodel.beginning import SceneSampler
from worldmodel.sampling import Sampling
from worldmodel.upsampler import Upsampler, UpsamplerConfig
from worldmodel.world import World

from .tiny_world import LIVELY, PLANE, STATELESS, shaken, tiny_world, with_parts

WORLD = tiny_world()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    WORLD.save_pretrained(tmp_path / "world")
    return tmp_path / "world"


def seen(world: World, **more: Any) -> list[Tensor]:
    rollout = world.start("a red ball", seed=6, **more)
    steps = [rollout.step(t % 2) for t in range(5)]
    return [s.frames for s in steps] + [s.upsampled for s in steps if s.upsampled is not None]


def rewrite(path: Path, change: Any) -> None:
    about = json.loads(path.read_text(encoding="utf-8"))
    change(about)
    path.write_text(json.dumps(about), encoding="utf-8")


# -- on disk ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("schema", [PLANE, STATELESS], ids=["plane", "film"])
def test_a_saved_world_comes_back_the_same(tmp_path, schema):
    world = tiny_world(schema)
    config = UpsamplerConfig(resolution=16, width=16, levels=2, depth=1, condition=16)
    world = with_parts(world, upsampler=shaken(Upsampler(config, schema if schema.num_values else None), 0.05))
    world.save_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.part"))
    again = World.from_pretrained(tmp_path, device="cpu")
    assert again.schema == world.schema
    assert again.vocabulary.fingerprint == world.vocabulary.fingerprint
    assert again.sampling == LIVELY
    ours, theirs = seen(world, upsample=True), seen(again, upsample=True)
    assert len(ours) == 10
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_half_precision_takes_half_the_room_and_is_read_back_rounded(folder, tmp_path):
    WORLD.save_pretrained(tmp_path / "half", half=True)
    sizes = [(at / "dynamics.safetensors").stat().st_size for at in (folder, tmp_path / "half")]
    assert sizes[1] < 0.6 * sizes[0]
    again = World.from_pretrained(tmp_path / "half", device="cpu").dynamics
    for ours, theirs in zip(WORLD.dynamics.parameters(), again.parameters(), strict=True):
        assert torch.equal(theirs, ours.half().float())


def test_a_saved_world_holds_numbers_and_text_alone(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "world.json",
        "text.model",
        "tokenizer.json",
        "tokenizer.safetensors",
        "dynamics.safetensors",
        "estimator.safetensors",
    }


def test_a_world_is_asked_for_by_name(folder, monkeypatch):
    monkeypatch.setattr("worldmodel.storage.BUNDLED", folder.parent)
    assert World.from_pretrained("world").schema == PLANE
    with pytest.raises(ValueError, match=r"no world at 'table': give a folder .* or a bundled name \(world\)"):
        World.from_pretrained("table")


def test_a_hub_that_does_not_answer_is_no_traceback(monkeypatch):
    def unreachable(*_: Any, **__: Any) -> str:
        raise ConnectionError("no network")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", unreachable)
    with pytest.raises(ValueError, match=r"no world 'someone/something' on disk, and the hub .* \(ConnectionError\)"):
        World.from_pretrained("someone/something")


def test_a_hub_world_is_loaded_from_where_the_hub_put_it(folder, monkeypatch):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: str(folder))
    assert World.from_pretrained("someone/something").schema == PLANE


@pytest.mark.parametrize("name", ["dynamics.safetensors", "tokenizer.safetensors", "tokenizer.json", "text.model"])
def test_a_missing_file_is_named(folder, name: str):
    (folder / name).unlink()
    with pytest.raises(ValueError, match=name.replace(".", r"\.")):
        World.from_pretrained(folder)


@pytest.mark.parametrize("name", ["dynamics.safetensors", "tokenizer.safetensors"])
@pytest.mark.parametrize("keep", [0, 5, 400])
def test_broken_weights_are_named(folder, name: str, keep: int):
    (folder / name).write_bytes((folder / name).read_bytes()[:keep])
    with pytest.raises(ValueError, match=rf"{name}.* is broken .*: copy or export it again"):
        World.from_pretrained(folder)


@pytest.mark.parametrize("name", ["world.json", "tokenizer.json"])
def test_broken_descriptions_are_named(folder, name: str):
    text = (folder / name).read_text(encoding="utf-8")
    (folder / name).write_text(text[: len(text) // 2], encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{name} .*export it again"):
        World.from_pretrained(folder)
    (folder / name).write_text('{"unheard_of": 1}', encoding="utf-8")
    with pytest.raises(ValueError, match=rf"{name} describes no"):
        World.from_pretrained(folder)


@pytest.mark.parametrize("device", ["cuda:7", "toaster", "mps"])
def test_a_device_that_is_not_there_is_refused(folder, device: str):
    with pytest.raises(ValueError, match=f"this machine has no device '{device}'"):
        World.from_pretrained(folder, device=device)


def test_weights_of_another_size_are_refused(folder):
    rewrite(folder / "world.json", lambda about: about["dynamics"].update(depth=3))
    with pytest.raises(
        ValueError, match=r"dynamics.safetensors holds weights of another model .*: export both together"
    ):
        World.from_pretrained(folder)


def test_parts_that_speak_another_vocabulary_are_refused(folder):
    TextTokenizer.train(["quite other words, all of them"], 300).save(folder / "text.model")
    rewrite(folder / "world.json", lambda about: about.pop("files"))  # as of before they were kept
    with pytest.raises(ValueError, match=r"the dynamics speaks another vocabulary .* text model"):
        World.from_pretrained(folder)


def test_files_of_two_worlds_are_not_taken_for_one(folder, tmp_path):
    other = tiny_world(sampling=Sampling())
    with torch.no_grad():
        other.dynamics.copy.bias.add_(1)
    other.save_pretrained(tmp_path / "other")
    (tmp_path / "other/dynamics.safetensors").replace(folder / "dynamics.safetensors")
    with pytest.raises(ValueError, match=r"dynamics.safetensors is not the file that world.json was written with"):
        World.from_pretrained(folder)


def test_what_a_killed_run_has_left_is_no_part_of_a_world(folder):
    before = {path.name for path in folder.iterdir()}
    (folder / ".writing").mkdir()
    (folder / ".writing/stranger.safetensors").write_bytes(b"old")
    WORLD.save_pretrained(folder)
    assert {path.name for path in folder.iterdir()} == before


@pytest.mark.parametrize("failing", [0, 2, 5])
def test_a_disk_that_is_full_spoils_nothing(folder, monkeypatch, failing: int):
    """Whichever file it is that cannot be written."""
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    written, whole = [], Path.write_bytes

    def fill(path: Path, write: Any) -> None:
        written.append(path)
        if len(written) > failing:
            raise OSError(28, "No space left on device")
        write()

    def weights(tensors: Any, path: Path) -> None:
        fill(path, lambda: save_file(tensors, path))

    texts = Path.write_text
    monkeypatch.setattr("tokenizer.weights.save_file", weights)
    monkeypatch.setattr(Path, "write_bytes", lambda path, data: fill(path, lambda: whole(path, data)))
    monkeypatch.setattr(Path, "write_text", lambda path, *a, **k: fill(path, lambda: texts(path, *a, **k)))
    changed = tiny_world(sampling=Sampling(video_temperature=0.5))
    with pytest.raises(OSError, match="No space left"):
        changed.save_pretrained(folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize(
    ("file", "change"),
    [
        ("world.json", lambda about: about["dynamics"].update(depth=10_000)),
        ("world.json", lambda about: about["dynamics"].update(width=960_000)),
        ("world.json", lambda about: about["vocabulary"].update(video=10**9)),
        ("tokenizer.json", lambda about: about.update(decoder_blocks=10_000)),
        ("tokenizer.json", lambda about: about["quantizer"].update(levels=[1000] * 6)),
        ("world.json", lambda about: about["estimator"].update(depth=10_000)),
    ],
)
def test_sizes_are_not_believed_before_the_weights_are_looked_at(folder, file: str, change: Any, monkeypatch):
    rewrite(folder / file, change)
    built, build = [], torch.nn.Linear.__init__

    def counted(layer: Any, inputs: int, outputs: int, *more: Any, **named: Any) -> None:
        built.append(inputs * outputs)
        assert sum(built) < 2e7, "it was built"
        build(layer, inputs, outputs, *more, **named)

    monkeypatch.setattr("torch.nn.Linear.__init__", counted)
    with pytest.raises(ValueError, match=r"is of a smaller model than|would have \d+ codes"):
        World.from_pretrained(folder)


def test_weights_that_are_no_numbers_and_what_nobody_knows_are_refused(folder):
    weights = load_file(folder / "dynamics.safetensors")
    weights["norm.weight"][0] = torch.nan
    save_file(weights, folder / "dynamics.safetensors")
    with pytest.raises(ValueError, match=r"dynamics.safetensors holds numbers that are not finite, in norm.weight"):
        World.from_pretrained(folder)
    rewrite(folder / "world.json", lambda about: about.update(magic=1))
    with pytest.raises(ValueError, match=r"world.json describes no world \(it has an unknown 'magic'\)"):
        World.from_pretrained(folder)
    (folder / "world.json").write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not valid JSON"):
        World.from_pretrained(folder)


# -- beginnings -------------------------------------------------------------------------------------


def test_arrays_serve_as_well_as_tensors():
    state = WORLD.start(seed=1).state
    assert torch.equal(WORLD.start(state=state.numpy(), seed=2).state, state)  # pyright: ignore[reportArgumentType]
    frames = np.zeros((3, 16, 16, 3), dtype=np.uint8)
    ours = WORLD.start(frames=frames, seed=2)  # pyright: ignore[reportArgumentType]
    assert torch.equal(ours.frames, WORLD.start(frames=torch.from_numpy(frames), seed=2).frames)


def test_whole_numbers_of_any_library_are_seeds_and_a_row_may_have_no_caption():
    expected = WORLD.start(seed=7).frames
    for seed in (np.int64(7), torch.tensor(7), [7], np.array([7])):
        assert torch.equal(WORLD.start(seed=seed).frames, expected)  # pyright: ignore[reportArgumentType]
    assert WORLD.start([None, "a"]).captions == ["", "a"]  # pyright: ignore[reportArgumentType]


def test_as_many_rows_begin_as_there_are_captions_states_frames_or_seeds():
    assert len(WORLD.start()) == 1
    assert len(WORLD.start(["a", "b"])) == 2
    assert len(WORLD.start("a", seed=[1, 2, 3])) == 3
    assert len(WORLD.start(state=torch.zeros(2, PLANE.num_values))) == 2
    assert len(WORLD.start(frames=torch.zeros(2, 1, 16, 16, 3, dtype=torch.uint8))) == 2
    assert len(WORLD.start("a", batch=4)) == 4


@pytest.mark.parametrize(
    ("wrong", "mend"),
    [
        (
            {"caption": "this is far too long a caption"},
            r"takes \d+ tokens and this world reads 6: shorten it to about",
        ),
        ({"state": torch.zeros(4)}, r"a state of 'plane' has 15 values, got shape \(4,\)"),
        ({"state": {"wall": {}}}, "no entity 'wall' in 'plane'; it has player, ball, episode"),
        ({"state": {"ball": {"mass": 1}}}, "'ball' has no field 'mass'; it has colour, size, position, yaw"),
        ({"state": {"ball": {"position": 1}}}, r"ball.position has 2 component\(s\), got 1"),
        ({"frames": torch.zeros(1, 3, 16, 16, 3)}, "frames are uint8, got torch.float32"),
        (
            {"frames": torch.zeros(1, 3, 8, 8, 3, dtype=torch.uint8)},
            "takes clips of 16x16 RGB frames \\(height x width\\), got shape",
        ),
        (
            {"frames": torch.zeros(4, 16, 16, 3, dtype=torch.uint8)},
            r"a clip has 1 \+ 2n frames, got 4: drop the last 1",
        ),
        ({"frames": torch.zeros(16, 16, 3, dtype=torch.uint8)}, "clips are .* got shape"),
        ({"caption": ["a", "b"], "seed": [1, 2, 3]}, "3 rows were asked for but there are 2 captions"),
        ({"batch": 0}, "at least one row"),
        ({"caption": []}, "at least one row"),
        ({"batch": 2.5}, "batch is 2.5: give a whole number from 0 on"),
        ({"batch": True}, "batch is True: give a whole number"),
        ({"caption": 5}, "a caption is a text, or a list"),
        ({"caption": b"ball"}, "a caption is a text, or a list"),
        ({"caption": "a \ud800 ball"}, "has half of a letter"),
        ({"caption": ["a", 5]}, r"a caption is a text, or a list of one for each row, got \[.*5"),
        ({"state": torch.full((15,), torch.nan)}, r"player\.\w+.* = nan cannot be: give a value from"),
        ({"state": torch.full((15,), 1e9)}, r"= 1e\+09 cannot be"),
        ({"state": {"ball": {"position": (10**400, 0)}}}, r"ball\.position = inf is outside"),
        *(({"seed": wrong}, "seed is .*: give a whole number from 0") for wrong in (3.5, "7", 2**63, -1, True, None)),
        ({"seed": [1, 2.5]}, "seed is 2.5: give a whole number"),
        ({"upsample": True}, "no upsampler: start it with upsample=False"),
        ({"sampling": Sampling(tokens_per_pass=3)}, "not trained for 3 tokens per pass; choose from 16, 4, 1"),
    ],
)
def test_a_wrong_beginning_is_answered_with_the_mend(wrong: dict[str, Any], mend: str):
    with pytest.raises(ValueError, match=mend):
        WORLD.start(**wrong)


def test_every_word_of_a_caption_is_heard_the_last_one_too():
    scenes = [WORLD.start(caption, batch=24).state for caption in ("a red", "a ball", "a")]
    assert not torch.equal(scenes[0], scenes[1])
    assert not torch.equal(scenes[1], scenes[2])


def test_a_caption_is_said_word_by_word_as_teacher_forcing_would():
    states = WORLD.start(seed=[1, 2]).state
    ids = StateCodec(PLANE).encode(states, "static"), StateCodec(PLANE).encode(states, "absolute")
    text, v = WORLD.vocabulary.span("text"), WORLD.vocabulary
    said = torch.full((2, 1), v.special("text"))
    for _ in range(WORLD.dynamics.layout.max_text):
        with torch.no_grad():
            logits = WORLD.dynamics.caption_logits(*ids, states, said)[:, -1]
        legal = torch.full_like(logits, -torch.inf)
        for span in (text, slice(v.special("end_text"), v.special("end_text") + 1)):
            legal[:, span] = logits[:, span]
        said = torch.cat([said, legal.argmax(-1, keepdim=True)], 1)
    words = [[i - text.start for i in row[1:]] for row in said.tolist()]
    ended = [row.index(v.special("end_text") - text.start) if min(row) < 0 else len(row) for row in words]
    assert WORLD.text is not None
    captions = [WORLD.text.decode(row[:end]) for row, end in zip(words, ended, strict=True)]
    assert WORLD.caption(states) == captions
    assert WORLD.caption(states[1]) == captions[1:]
    assert WORLD.caption(states, seed=3) == WORLD.caption(states, seed=3) != WORLD.caption(states, seed=4)
    with pytest.raises(ValueError, match="a state of 'plane' has 15 values"):
        WORLD.caption(torch.zeros(2, 4))


def test_an_unknown_attention_backend_is_refused(folder):
    with pytest.raises(ValueError, match="unknown attention backend 'fast'; choose from auto, sdpa"):
        World.from_pretrained(folder, attention="fast")


def test_a_width_that_three_axes_cannot_share_is_refused():
    with pytest.raises(ValueError, match="must be a multiple of 6 x heads = 12"):
        tiny_world(width=50)
    with pytest.raises(ValueError, match="tokens_per_pass 5 does not divide the 16 ids of a frame"):
        tiny_world(tokens_per_pass=(5,))


def test_no_sampled_scene_begins_with_bodies_in_one_another(monkeypatch: pytest.MonkeyPatch):
    def overlaps() -> int:
        rollout = WORLD.start(seed=0, batch=60)
        return int(StateReader(WORLD.schema)(rollout.state).overlapping.sum())

    assert overlaps() == 0
    monkeypatch.setattr(SceneSampler, "TRIES", 1)
    assert overlaps() > 0
