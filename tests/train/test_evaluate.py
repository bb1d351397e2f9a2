import json
import math
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

import train.worlds  # noqa: F401  (chooses MuJoCo's renderer before it is imported)
from tokenizer.clip import Clip, Episode
from tokenizer.quantizer import QuantizerConfig
from tokenizer.state_schema import Entity, Field, StateSchema
from tokenizer.stream import Layout
from tokenizer.text_tokenizer import TextTokenizer
from tokenizer.video_tokenizer import VideoTokenizer, VideoTokenizerConfig
from tokenizer.vocabulary import Vocabulary
from train.evaluate import Effort, evaluate, find_recipe, main, table
from train.measure.bars import BARS, Bar
from train.measure.bodies import Bodies
from train.measure.edits import EditCase, draw_cases, judge
from train.measure.measurement import plain
from train.measure.text import measure_text
from train.worlds.held_out import FIRST_SEED, held_out
from train.worlds.play import draw_episode
from train.worlds.registry import recipe
from train.worlds.tabletop.captions import claims
from train.worlds.tabletop.schema import COLOURS, tabletop_schema
from train.worlds.tabletop.simulator import Tabletop
from worldmodel.state_estimator import StateEstimator, StateEstimatorConfig
from worldmodel.transformer import Dynamics, DynamicsConfig
from worldmodel.upsampler import Upsampler, UpsamplerConfig
from worldmodel.world import World

from ..worldmodel.tiny_world import STATELESS, tiny_world

CONTRACT = {
    "tokenizer": (
        "psnr_db psnr_by_frame_db ssim bits_per_frame ids_per_frame codebook_used perplexity body_psnr_db "
        "colour_recall static_id_change temporal_variance ceiling_psnr_db ceiling_body_psnr_db foreground_psnr_db "
        "foreground_psnr_db_median foreground_psnr_db_copy_last moving_psnr_db psnr_db_median psnr_db_copy_last"
    ),
    "rollout": (
        "psnr_by_step_db psnr_copy_last_by_step_db player_error_16 player_error_16_copy_last player_error_by_step "
        "others_error_by_step delta_psnr_8_db reward_f1 terminated_f1 psnr_median_by_step_db "
        "foreground_psnr_db_1 foreground_psnr_db_8 foreground_psnr_db_8_median foreground_psnr_db_8_copy_last "
        "moving_psnr_db_16 moving_psnr_db_16_median moving_psnr_db_16_copy_last foreground_psnr_ceiling_by_step_db "
        "delta_foreground_psnr_8_db delta_moving_psnr_8_db action_sensitivity foreground_amount things things_real "
        "freezes loops"
    ),
    "read": (
        "position_error velocity_error found count_accuracy colour_accuracy shape_accuracy material_accuracy "
        "first_frame_psnr_db first_frame_psnr_true_state_db psnr_8_db psnr_8_true_state_db"
    ),
    "edit": "obeyed obeyed_first_step others_undisturbed",
    "speed": "step_ms parts_ms steps_per_s frames_per_s threads decode_ms_per_frame upsample_ms_per_frame",
    "modes": "64 raster_step_ms",
    "endless": (
        "idle_sharpness_16 idle_palette_16 idle_bodies_drawn_16 idle_bodies_constant_16 "
        "moving_sharpness_16 moving_palette_16 moving_bodies_drawn_16 moving_bodies_constant_16"
    ),
    "shots": (
        "psnr_db_1 psnr_db_2 uncut_psnr_db_1 ignored_psnr_db_1 bodies_drawn_1 bodies_apart_1 told_psnr_db dark_psnr_db"
    ),
    "text": "attributes_obeyed attributes_obeyed_0 attributes_obeyed_2 count_obeyed colour_obeyed shape_obeyed",
    "caption": "claims_true count_true colour_true shape_true material_true",
    "outcome": "reward_f1 terminated_f1 reward_events",
    "state_modes": "31 6 recorded_overlapping",
    "motion": "0 0.2 0.4 0.6 0_later 0.6_later rises",
    "events": "stopped slower as_is faster obeyed untold undisturbed error_8 untold_error_8",
    "upsampler": (
        "psnr_db bicubic_psnr_db regressor_psnr_db one_step_psnr_db two_step_psnr_db four_step_psnr_db "
        "high_band_ratio laplacian_ratio temporal_variance seam_ratio naive_seam_ratio blended_seam_ratio"
    ),
}
TINY = Effort(
    episodes=2,
    edits_per_episode=1,
    reads_per_episode=1,
    events_per_episode=2,
    outcome_episodes=3,
    upsampled_episodes=1,
    upsampled_steps=5,
    timed_steps=8,
    endless_steps=16,
    motion_scenes=4,
)
SCHEMA = tabletop_schema()
RECIPE = recipe("tabletop")


def without_gl() -> str:
    try:
        Tabletop().close()
    except RuntimeError as error:
        return str(error)
    return ""


needs_gl = pytest.mark.skipif(bool(without_gl()), reason=without_gl())


@pytest.fixture(scope="module")
def world() -> World:
    torch.manual_seed(0)
    text = TextTokenizer.train(["a red ball and a blue box", "a green cylinder rolls west"], 400)
    tokenizer = VideoTokenizer(
        VideoTokenizerConfig(
            encoder_width=16,
            encoder_blocks=1,
            decoder_width=16,
            decoder_blocks=1,
            detail_width=8,
            detail_blocks=1,
            quantizer=QuantizerConfig(levels=(4, 4)),
        ),
        SCHEMA,
    )
    layout = Layout.of(
        Vocabulary.of(text=text, actions=SCHEMA.actions, schema=SCHEMA, num_codes=16),
        SCHEMA,
        tokenizer.grid,
        16,
        64,
    )
    config = DynamicsConfig(
        width=24,
        depth=1,
        heads=2,
        window=2,
        max_text=16,
        max_event=64,
        tokens_per_pass=(64,),
        state_tokens_per_pass=(31, 6),
    )
    upsampler = Upsampler(UpsamplerConfig(width=8, levels=2, depth=1, condition=16), SCHEMA)
    return World(
        schema=SCHEMA,
        text=text,
        tokenizer=tokenizer,
        dynamics=Dynamics(config, layout, SCHEMA),
        upsampler=upsampler,
        estimator=StateEstimator(StateEstimatorConfig(width=24, depth=1, heads=2, stem_width=8, stem_depth=1), SCHEMA),
    )


def fake_episode(seed: int, steps: int = 17) -> Episode:
    """True physics; pictures are noise, and the entity map is squares."""
    env, rng = Tabletop(physics_only=True), np.random.default_rng(seed)
    states, actions = [env.reset(seed=seed)[1]["state"]], rng.integers(0, 7, steps)
    states += [env.step(action)[4]["state"] for action in actions]
    segmentation = np.zeros((1 + 4 * steps, 64, 64), np.uint8)
    for body in range(4):
        segmentation[:, 10 * body + 2 : 10 * body + 10, 8:16] = body + 1
    return Episode(
        frames=rng.integers(0, 256, (1 + 4 * steps, 128, 128, 3), np.uint8),
        actions=actions[:, None],
        states=np.stack(states),
        caption="a red ball and a blue box" if seed else "far too long to be read " * 9,
        segmentation=segmentation,
        seed=seed,
    )


@pytest.fixture(scope="module")
def figures(world: World, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path]:
    report = tmp_path_factory.mktemp("report")
    episodes = [fake_episode(0), fake_episode(1, steps=11)]
    ceiling = VideoTokenizer(replace(world.tokenizer.config, quantizer=QuantizerConfig(kind="continuous")), SCHEMA)
    about = {"world": "tiny"}
    numbers = evaluate(
        world,
        episodes,
        effort=TINY,
        recipe=RECIPE,
        report=report,
        about=about,
        ceiling=ceiling,
        regressor=world.upsampler,
    )
    return numbers, report


def test_every_key_of_the_contract_is_measured(figures: tuple[dict, Path]) -> None:
    numbers, _ = figures
    for part, names in CONTRACT.items():
        assert set(names.split()) <= set(numbers[part])
    keys = "error_8 error_32 overlapping overlapping_drawn simulate_ms step_ms"
    assert all(set(keys.split()) == set(numbers["state_modes"][k]) for k in ("31", "6"))
    rollout, tokenizer = numbers["rollout"], numbers["tokenizer"]
    assert rollout["rows_by_step"] == [2] * 11 + [1] * 6
    assert len(rollout["player_error_by_step"]) == len(rollout["psnr_by_step_db"]) == 17
    assert rollout["player_error_16"] == rollout["player_error_by_step"][15]
    assert "player_error_32" not in rollout
    assert len(tokenizer["psnr_by_frame_db"]) == 4
    assert tokenizer["ids_per_frame"] == 16
    assert tokenizer["bits_per_frame"] == 64
    assert 0 < numbers["speed"]["parts_ms"]["decode"] < numbers["speed"]["step_ms"]["p95"]
    upsampler = numbers["upsampler"]
    assert upsampler["psnr_db"] != upsampler["bicubic_psnr_db"]  # bodies are drawn over it
    assert upsampler["psnr_db"] == pytest.approx(upsampler["regressor_psnr_db"])  # it is held against itself
    assert upsampler["seam_ratio"] == pytest.approx(1, abs=1e-3)


def test_the_numbers_are_json_and_a_readable_table(figures: tuple[dict, Path]) -> None:
    numbers, _ = figures
    assert json.loads(json.dumps(numbers, allow_nan=False)) == numbers
    text = table(numbers, RECIPE.bars)
    assert "MISSED" in text
    assert text.endswith("\n".join(numbers["verdict"]))
    assert numbers["verdict"][0].endswith("found in this world.")
    for row in ("median picture", "first frame held", "frame before held", "Rollout, foreground pixels, dB"):
        assert row in text
    for bar in (*BARS, *RECIPE.bars):
        part, name = bar.key.split(".")
        assert (bar.key in text) == (name in numbers[part]), bar.key
    assert "lap.time" not in table(numbers, [Bar("lap.time", "≤", 60)])
    assert "lap.time" in table(numbers | {"lap": {"time": 50}}, [Bar("lap.time", "≤", 60)])


def test_the_report_shows_pictures_and_bars(figures: tuple[dict, Path]) -> None:
    _, report = figures
    page = (report / "index.html").read_text(encoding="utf-8")
    pictures = ["rollouts.png", "psnr.png", "foreground_psnr.png", "moving_psnr.png", "position.png"]
    for name in (*pictures, "tokenizer.png", "upsampler.png"):
        assert name in page
        assert (report / name).stat().st_size > 1000
    assert "rollout.player_error_16" in page
    assert page.index("found in this world.") < page.index("median picture") < page.index("rollouts.png")


@pytest.mark.slow
def test_an_evaluation_repeats_with_its_seed(figures: tuple[dict, Path], world: World) -> None:
    again = evaluate(world, [fake_episode(0), fake_episode(1, steps=11)], effort=TINY, recipe=RECIPE)
    for part in ("tokenizer", "rollout", "read", "edit"):
        assert again[part].items() <= figures[0][part].items()  # which had more to compare with


def test_frames_of_another_size_are_refused_with_the_size_to_record(world: World) -> None:
    episode = fake_episode(0, steps=2)
    with pytest.raises(ValueError, match="64x64 frames and the recording has 32x32: record it at 128x128"):
        evaluate(world, [episode.with_frames(episode.frames[:, ::4, ::4])], effort=TINY)


@pytest.mark.slow
def test_without_a_simulator_what_asks_for_one_is_not_listed(world: World) -> None:
    numbers = evaluate(world, [fake_episode(1, steps=9)], effort=TINY)
    assert {"tokenizer", "rollout", "read", "speed", "endless", "motion"} <= set(numbers)
    assert not {"outcome", "state_modes", "edit", "shots", "text", "caption", "events"} & set(numbers)


def test_what_is_not_finite_becomes_null() -> None:
    assert plain({"a": [math.nan, 1.0], "b": torch.tensor([2, 3])}) == {"a": [None, 1.0], "b": [2, 3]}


def test_bodies_are_compared_in_the_order_that_fits_and_the_player_stays_itself() -> None:
    bodies, some = Bodies.of(SCHEMA), torch.zeros(1, SCHEMA.num_values)
    where = {"player": (0.1, 0.1), "body_1": (0.4, 0.0), "body_2": (-0.4, 0.2)}
    truth = SCHEMA.write(some, {name: {"present": True, "position": at} for name, at in where.items()})
    others = {"player": where["body_1"], "body_2": where["body_1"], "body_3": where["body_2"]}
    read = SCHEMA.write(some, {name: {"present": True, "position": at} for name, at in others.items()})
    matched = bodies.matched(read, truth)
    assert bodies.present(matched).equal(bodies.present(truth))
    torch.testing.assert_close(bodies.distance(matched, truth)[0, 1:3], torch.zeros(2))
    assert bodies.distance(matched, truth)[0, 0] > 0.3
    assert bodies.matched(truth, truth).equal(truth)


# -- the edit's criterion -------------------------------------------------------------------------------

RED, BLUE, FLOOR = (200, 30, 30), (30, 60, 200), (150, 146, 138)


def drawn(player: tuple[int, int] | None, other: tuple[int, int] | None, colour: tuple = RED) -> torch.Tensor:
    """A red player and a blue body_1, squares of 8 pixels with these corners."""
    picture = torch.zeros(64, 64, 3, dtype=torch.uint8) + torch.tensor(FLOOR, dtype=torch.uint8)
    for corner, colours in ((player, colour), (other, BLUE)):
        if corner is not None:
            picture[corner[0] : corner[0] + 8, corner[1] : corner[1] + 8] = torch.tensor(colours, dtype=torch.uint8)
    return picture


def mapped(player: tuple[int, int], other: tuple[int, int]) -> torch.Tensor:
    covers = torch.zeros(64, 64, dtype=torch.uint8)
    for label, (row, column) in enumerate((player, other), start=1):
        covers[row : row + 8, column : column + 8] = label
    return covers


OLD, NEW, OTHER = (10, 10), (40, 10), (20, 40)


@pytest.fixture
def case() -> EditCase:
    colours = {"player": {"present": True, "colour": "red"}, "body_1": {"present": True, "colour": "blue"}}
    state = SCHEMA.write(torch.zeros(SCHEMA.num_values), colours)
    return EditCase(
        clip=Clip(frames=drawn(OLD, OTHER)[None].numpy(), states=state[None].numpy(), actions=np.zeros(0, np.int64)),
        body=0,
        name="player",
        place=(0.1, 0.1),
        truth=torch.stack([drawn(OLD, OTHER), *[drawn(NEW, OTHER)] * 8]),
        states=state.expand(2, -1),
        covers=mapped(NEW, OTHER)[None].repeat(2, 1, 1),
        covered=mapped(OLD, OTHER),
    )


@pytest.mark.parametrize(
    ("picture", "obeyed", "undisturbed"),
    [
        (drawn(NEW, OTHER), True, True),
        (drawn(OLD, OTHER), False, True),  # nothing happened
        (drawn(None, OTHER), False, True),  # it vanished
        (drawn(NEW, OTHER, BLUE), False, True),  # it came in another's colour
        (torch.minimum(drawn(NEW, OTHER), drawn(OLD, OTHER)), False, True),  # it is at both places
        (drawn(NEW, None), True, False),
        (drawn(NEW, (28, 40)), True, False),
        (drawn((42, 12), OTHER), True, True),  # two pixels off: most of it is still where it should be
    ],
)
def test_an_edit_is_judged_from_pixels(case: EditCase, picture: torch.Tensor, obeyed: bool, undisturbed: bool) -> None:
    typical = torch.full((6, 3), float("nan"))
    typical[0], typical[2] = torch.tensor(RED).float(), torch.tensor(BLUE).float()
    verdict = judge(case, Bodies.of(SCHEMA), picture, 1, typical)
    assert (verdict.obeyed, verdict.undisturbed) == (obeyed, undisturbed)


@needs_gl
def test_the_simulators_own_pictures_obey_and_unedited_ones_do_not() -> None:
    env = Tabletop(64, segmentation=True)
    episode = fake_episode(1)
    small = episode.with_frames(episode.frames[:, ::2, ::2])
    cases = draw_cases(env, SCHEMA, [small], (64, 64), per_episode=2, seed=0)
    env.close()
    assert sorted(case.body == 0 for case in cases) == [False, False, True, True]
    assert episode.states is not None
    assert not all(Bodies.of(SCHEMA).present(torch.from_numpy(episode.states[0])))  # nor need all bodies be there
    unseen = torch.full((6, 3), float("nan"))
    for case in cases:
        truth = judge(case, Bodies.of(SCHEMA), case.truth[-1], 1, unseen)
        assert truth.obeyed
        assert truth.undisturbed
        moved = replace(case, clip=replace(case.clip, frames=case.truth[:1].numpy()))
        assert not judge(moved, Bodies.of(SCHEMA), moved.before, 1, unseen).obeyed


# -- held-out episodes and the command ------------------------------------------------------------------


def test_held_out_seeds_are_beyond_those_that_recordings_draw() -> None:
    assert all(draw_episode(RECIPE, seed, index)[0] < FIRST_SEED for seed in range(20) for index in range(20))


@needs_gl
def test_held_out_episodes_are_recorded_once(tmp_path: Path) -> None:
    first = held_out("tabletop", RECIPE, 1, num_steps=2, folder=tmp_path)
    files = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")}
    again = held_out("tabletop", RECIPE, 3, num_steps=2, folder=tmp_path)
    assert first.split("test") == again.split("test") == [0, 1, 2, 3]
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.mp4")} == files
    assert again.read(2).seed == FIRST_SEED + 2


def test_without_mujoco_one_sentence_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "train.worlds.tabletop.simulator", None)
    with pytest.raises(RuntimeError, match=r"pip install 'worldmodel-stream\[worlds\]', or give --recording"):
        held_out("tabletop", RECIPE, 1, folder=tmp_path)


def test_the_command_says_what_is_wrong_in_one_sentence(
    world: World, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--world", str(tmp_path / "nowhere")]) == 1
    assert "no world at" in capsys.readouterr().err
    world.save_pretrained(tmp_path / "tiny")
    assert main(["--world", str(tmp_path / "tiny"), "--recording", str(tmp_path / "nothing")]) == 1
    assert "no recording at" in capsys.readouterr().err


def test_who_has_neither_recording_nor_simulator_is_told_what_to_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny_world(STATELESS).save_pretrained(tmp_path / "film")
    assert main(["--world", str(tmp_path / "film")]) == 1
    assert "nobody here can simulate 'film' to record held-out episodes: give --recording" in capsys.readouterr().err
    assert main(["--world", str(tmp_path / "film"), "--world-recipe", "tabeltop"]) == 1
    assert "did you mean tabletop" in capsys.readouterr().err


def test_a_recipe_is_found_by_the_option_the_recording_the_folder_or_the_schema(
    world: World, capsys: pytest.CaptureFixture[str]
) -> None:
    assert find_recipe(None, None, world) == ("tabletop", RECIPE)
    assert find_recipe("tabletop", None, world) == ("tabletop", RECIPE)
    assert find_recipe(None, None, tiny_world(STATELESS)) == ("", None)
    gone = tiny_world(STATELESS)
    gone.release = replace(gone.release, recipe="gone_away:RECIPE")
    assert find_recipe(None, None, gone) == ("", None)
    assert "without the world's recipe: the world 'gone_away:RECIPE' asks for" in capsys.readouterr().err


def test_a_recipe_of_another_schema_is_refused(world: World) -> None:
    with pytest.raises(ValueError, match="the recipe's schema 'doom' is not this world's, 'tabletop'"):
        evaluate(world, [fake_episode(1, steps=2)], effort=TINY, recipe=recipe("doom"))


def test_claims_hold_where_the_scene_is_as_the_caption_says(world: World) -> None:
    bodies = [
        {"present": True, "colour": "red", "shape": "ball", "material": "rubber"},
        {"present": True, "colour": "blue", "shape": "box", "material": "wood"},
        {"present": False, "colour": "green", "shape": "ball", "material": "rubber"},
    ]
    colour = Field(name="colour", kind="categorical", role="colour", names=("red", "green", "blue"), static=True)
    entities = tuple(Entity(name=f"body_{i}", fields=(colour,)) for i in range(3))
    scene = {entity.name: body for entity, body in zip(entities, bodies, strict=True)}

    class Told:
        schema = StateSchema(name="told", entities=entities)

        def start(self, captions: list[str], **_: object) -> object:
            return self

        def describe(self, row: int) -> dict:
            return scene

    def shares(caption: str) -> dict:
        said = partial(claims, colours=COLOURS)
        return measure_text(Told(), [caption], said, seed=0, sampling=world.sampling)  # type: ignore[arg-type]

    right = shares("a red rubber ball and a blue box")
    assert right["attributes_obeyed"] == right["count_obeyed"] == 1
    wrong = shares("a red rubber box and a blue wooden box")
    assert (wrong["shape_obeyed"], wrong["colour_obeyed"], wrong["material_obeyed"]) == (0.5, 1, 1)
    assert shares("a red ball, a blue box and a green ball")["count_obeyed"] == 0
    assert shares("a blue ball")["count_obeyed"] is None
