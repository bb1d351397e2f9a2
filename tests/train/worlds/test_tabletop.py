import math
import subprocess
import sys

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env

import train.worlds  # noqa: F401  (chooses MuJoCo's renderer before it is imported)
from train.worlds.tabletop.captions import caption, claims
from train.worlds.tabletop.schema import ACTIONS, BODIES, VIEW, tabletop_schema
from train.worlds.tabletop.simulator import Tabletop

NORTH, EAST, ORBIT_RIGHT = (ACTIONS.index(name) for name in ("north", "east", "orbit_right"))


def _without_gl() -> str:
    try:
        Tabletop().close()
    except RuntimeError as error:
        return str(error)
    return ""


needs_gl = pytest.mark.skipif(bool(_without_gl()), reason=_without_gl())


@pytest.fixture
def simulator() -> Tabletop:
    return Tabletop(physics_only=True)


def _field(env: Tabletop, entity: str, name: str) -> np.ndarray:
    return env.state[env.schema.columns(entity, name)]


ALONE = {
    "player": {"shape": "ball", "size": 0.08, "material": "rubber", "position": (-0.3, -0.3)},
    "body_1": {"shape": "ball", "size": 0.08, "position": (0.3, -0.3), "velocity": (0, 0)},
    "body_2": {"present": True, "shape": "ball", "size": 0.08, "position": (-0.3, 0.3), "velocity": (0, 0)},
    "body_3": {"present": True, "shape": "ball", "size": 0.08, "position": (0.3, 0.3), "velocity": (0, 0)},
    "target": {"position": (0.0, 0.0)},
}


@needs_gl
@pytest.mark.filterwarnings("ignore:.*WARN.*")
def test_gymnasium_finds_nothing_to_complain_about() -> None:
    env = gymnasium.make("train.worlds:Tabletop-v0")
    check_env(env.unwrapped, skip_render_check=True)
    env.close()


@needs_gl
def test_every_body_is_seen_where_the_view_says() -> None:
    env = Tabletop(segmentation=True)
    for azimuth in (-0.7, 0.0, 0.5):
        _, info = env.reset(seed=1, options={"state": ALONE | {"camera": {"azimuth": azimuth}}})
        for i, name in enumerate(BODIES):
            rows, columns = np.nonzero(info["segmentation"][0] == i + 1)
            x, y = _field(env, name, "position")
            sin, cos = math.sin(azimuth), math.cos(azimuth)
            across, away = cos * x + sin * y, -sin * x + cos * y
            up = float(_field(env, name, "size")[0]) - VIEW.target[2]
            depth = VIEW.distance + away * math.cos(VIEW.elevation) - up * math.sin(VIEW.elevation)
            height = away * math.sin(VIEW.elevation) + up * math.cos(VIEW.elevation)
            scale = 32 / math.tan(VIEW.fovy / 2) / depth
            seen = (columns.mean() + 0.5, rows.mean() + 0.5)
            assert math.dist(seen, (32 + across * scale, 32 - height * scale)) < 1.5
    env.close()


@needs_gl
def test_the_same_seed_and_actions_show_the_same_pictures() -> None:
    def play() -> np.ndarray:
        env = Tabletop()
        env.reset(seed=5)
        frames = [env.step(action)[4]["frames"] for action in (NORTH, EAST, ORBIT_RIGHT, EAST)]
        env.close()
        return np.concatenate(frames)

    assert np.array_equal(play(), play())


@needs_gl
def test_pictures_at_64_are_those_at_128_halved() -> None:
    from tokenizer.clip import halve

    small, large = Tabletop(64), Tabletop(128)
    assert np.array_equal(small.reset(seed=2)[0], halve(large.reset(seed=2)[0]))
    small.close()
    large.close()


@needs_gl
def test_restoring_a_snapshot_repeats_pictures_and_states_exactly() -> None:
    env = Tabletop()
    env.reset(seed=3)
    for action in (NORTH, ORBIT_RIGHT, EAST):
        env.step(action)
    mark = env.snapshot()
    first = [env.step(a) for a in (EAST, NORTH, ORBIT_RIGHT, 0)]
    env.reset(seed=4)  # another model: restoring must bring the old one back
    env.restore(mark)
    for before, after in zip(first, [env.step(a) for a in (EAST, NORTH, ORBIT_RIGHT, 0)], strict=True):
        assert np.array_equal(before[4]["frames"], after[4]["frames"])
        assert np.array_equal(before[4]["states"], after[4]["states"])
    env.close()


def test_a_push_reaches_nearly_top_speed_in_half_a_second_and_fades_when_let_go(simulator: Tabletop) -> None:
    simulator.reset(seed=0, options={"state": ALONE | {"player": ALONE["player"] | {"position": (-0.4, 0.0)}}})
    for _ in range(7):
        simulator.step(EAST)
    assert 0.75 < _field(simulator, "player", "velocity")[0] < 0.95
    for _ in range(9):
        simulator.step(0)
    assert np.abs(_field(simulator, "player", "velocity")).max() < 0.05


def test_rubber_bounces_off_a_wall_more_than_wood(simulator: Tabletop) -> None:
    def rebound(material: str) -> float:
        body = ALONE["body_1"] | {"material": material, "velocity": (1.0, 0.0)}
        simulator.reset(seed=0, options={"state": ALONE | {"body_1": body}})
        for _ in range(4):
            simulator.step(0)
        return -float(_field(simulator, "body_1", "velocity")[0])

    assert rebound("rubber") > rebound("wood") + 0.1 > 0.1


def test_the_camera_swings_with_inertia_and_stops_at_its_limit(simulator: Tabletop) -> None:
    simulator.reset(seed=0, options={"state": {"camera": {"azimuth": 0.0}}})
    simulator.step(ORBIT_RIGHT)
    first = _field(simulator, "camera", "azimuth")[0]
    simulator.step(0)
    assert _field(simulator, "camera", "azimuth")[0] > first > 0
    for _ in range(40):
        simulator.step(ORBIT_RIGHT)
    assert _field(simulator, "camera", "azimuth")[0] == pytest.approx(math.pi / 4)


@needs_gl
def test_when_the_light_goes_out_the_scene_goes_on_in_the_dusk_and_without_shadows() -> None:
    env = Tabletop()
    env.reset(seed=0, options={"state": {"light": {"brightness": 1.0, "rate": 0.3}}})

    def seen(**light: float) -> np.ndarray:
        env.write_state({"light": light})
        return env.render().astype(float)

    lit, turned, dark = seen(angle=0.0), seen(angle=2.0), seen(brightness=0.0)
    floor = lit.min(-1) > 150
    assert np.abs(lit - turned).mean() > 1
    assert 0.3 < dark[floor].mean() / lit[floor].mean() < 0.7
    assert np.array_equal(dark, seen(angle=0.0))  # what is left comes from everywhere
    env.step(0)
    assert _field(env, "light", "brightness") == 0
    assert seen(brightness=1.0)[floor].mean() > 150
    env.close()


def test_motion_intensity_is_how_fast_the_others_are_as_the_episode_begins(simulator: Tabletop) -> None:
    others = {"body_1": ALONE["body_1"] | {"velocity": (0.3, 0.4)}}
    simulator.reset(seed=0, options={"state": ALONE | others | {"player": ALONE["player"] | {"velocity": (1, 0)}}})
    assert _field(simulator, "episode", "motion") == pytest.approx(0.5 / 3)
    for _ in range(5):
        simulator.step(EAST)
    simulator.write_state({"body_2": {"velocity": (1.0, 0.0)}})
    assert _field(simulator, "episode", "motion") == pytest.approx(0.5 / 3)


def test_resting_on_the_target_is_rewarded_and_ends_the_episode(simulator: Tabletop) -> None:
    simulator.reset(seed=0, options={"state": ALONE})
    simulator.write_state({"player": {"position": (0.02, 0.0), "velocity": (0.0, 0.0)}})
    _, reward, terminated, _, info = simulator.step(0)
    assert reward == 1.0
    assert terminated
    assert info["state"][simulator.schema.columns("episode", "reward")] == 1.0


def test_a_written_position_is_taken_and_the_others_stay(simulator: Tabletop) -> None:
    simulator.reset(seed=0, options={"state": ALONE})
    before = simulator.state
    after = simulator.write_state({"body_2": {"position": (0.0, 0.2)}})
    changed = np.nonzero(before != after)[0]
    columns = simulator.schema.columns("body_2", "position")
    assert set(changed) <= set(range(columns.start, columns.stop))
    assert after[columns] == pytest.approx([0.0, 0.2])


def test_physics_stays_within_the_table_and_the_schema(simulator: Tabletop) -> None:
    rng = np.random.default_rng(0)
    for seed in range(6):
        simulator.reset(seed=seed)
        for _ in range(60):
            simulator.step(int(rng.integers(len(ACTIONS))))
            for name in BODIES:
                assert np.abs(_field(simulator, name, "position")).max() < 0.5
                assert np.abs(_field(simulator, name, "velocity")).max() < 2.0


@pytest.mark.parametrize(
    ("edit", "sentence"),
    [
        ({"player": {"position": (0.3, -0.3)}}, "body_1 would overlap player"),
        ({"player": {"position": (0.49, 0.0)}}, "would stand in a wall"),
        ({"player": {"present": False}}, "needs its player"),
        ({"ghost": {"position": (0, 0)}}, "no entity 'ghost'"),
    ],
)
def test_impossible_edits_are_refused_with_a_sentence(simulator: Tabletop, edit: dict, sentence: str) -> None:
    simulator.reset(seed=0, options={"state": ALONE})
    with pytest.raises(ValueError, match=sentence):
        simulator.write_state(edit)


def test_an_unknown_action_or_resolution_is_refused_with_the_choices(simulator: Tabletop) -> None:
    simulator.reset(seed=0)
    with pytest.raises(ValueError, match="orbit_right"):
        simulator.step(7)
    with pytest.raises(ValueError, match="64, 128 or 256"):
        Tabletop(100)


def test_captions_are_short_lower_case_and_varied(simulator: Tabletop) -> None:
    captions = [simulator.reset(seed=seed)[1]["caption"] for seed in range(60)]
    assert len(set(captions)) == 60
    assert all(text == text.lower() and text.isascii() and len(text.split()) <= 45 for text in captions)
    assert min(len(text.split()) for text in captions) <= 10
    scene = tabletop_schema().to_dict(torch.from_numpy(simulator.state))
    assert caption(scene, np.random.default_rng(1)) == caption(scene, np.random.default_rng(1))


def test_what_a_caption_claims_is_what_its_scene_has():
    env, rng, several = Tabletop(physics_only=True), np.random.default_rng(0), 0
    colours = next(f.names for f in env.schema.entities[0].fields if f.role == "colour")
    for seed in range(60):
        _, info = env.reset(seed=seed)
        scene = env.schema.to_dict(torch.from_numpy(info["state"]))
        there = [scene[name] for name in ("player", "body_1", "body_2", "body_3") if scene[name]["present"]]
        for _ in range(4):
            said = claims(caption(scene, rng), colours)
            assert len(said) in (1, len(there))
            several += len(said) > 1
            for body, claimed in zip(there, said):
                assert claimed.items() <= body.items()
    assert several > 100


def test_events_say_what_they_do_and_stay_within_a_step_s_change():
    from train.worlds.tabletop.events import draw_event

    env, rng, kinds = Tabletop(physics_only=True), np.random.default_rng(0), set()
    schema = env.schema
    for seed in range(40):
        state = torch.from_numpy(env.reset(seed=seed)[1]["state"])
        for _ in range(6):
            for action in rng.integers(0, 7, 3):
                state = torch.from_numpy(env.step(action)[4]["state"])
            scene = schema.to_dict(state)
            kind, text, edit = draw_event(scene, rng)
            after = schema.write(state, edit)  # refused if out of range
            kinds.add(kind)
            for entity, fields in edit.items():
                for name in fields:
                    change = next(f.change for f in schema.entity(entity).fields if f.name == name)
                    column = schema.columns(entity, name)
                    assert change is not None
                    assert (after[column] - state[column]).abs().max() <= change
            if kind == "kick":
                (name,) = edit
                gained = after[schema.columns(name, "velocity")] - state[schema.columns(name, "velocity")]
                assert scene[name]["colour"] in text
                way = ("north" * (gained[1] > 0.1) or "south" * (gained[1] < -0.1)), "east" * (gained[0] > 0.1)
                assert all(word in text for word in way)
            if kind == "brightness" and "out" in text.split():
                assert edit == {"light": {"brightness": 0.0}}
            if kind == "shot":
                sides = {"left": -1, "front": 0, "right": 1}
                named = [sign for side, sign in sides.items() if side in text]
                assert named in ([], [np.sign(float(after[schema.columns("camera", "azimuth")]))])
    assert kinds == {"kick", "stop", "all_stop", "slower", "faster", "camera", "light", "shot", "brightness"}


@needs_gl
def test_it_draws_again_when_another_library_has_ended_the_display() -> None:
    Tabletop(resolution=64).reset(seed=0)
    egl = sys.modules.get("mujoco.egl")
    if egl is None or egl.EGL_DISPLAY is None:
        pytest.skip("drawn by something else than EGL")
    code = (
        "import train.worlds.tabletop\nfrom train.worlds.tabletop.simulator import Tabletop\n"
        "Tabletop(resolution=64).reset(seed=0)\nfrom mujoco import egl\negl.EGL.eglTerminate(egl.EGL_DISPLAY)\n"
        "assert Tabletop(resolution=64).reset(seed=0)[0].std() > 1\n"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
