"""Tabletop: bodies of many shapes and materials on a walled table, one of them pushed by the player (MuJoCo).

Bodies are planar (slide x, slide y, hinge z) and the table has no gravity: friction is damping plus a small
constant loss, bounce is the contact's damping. Contacts have no tangential friction, so a ball's invisible spin
can't matter and the scene state says everything that drives the scene.

Time: physics at 240 Hz, a picture every 4 physics steps (60 a second), an action every 4 pictures. The scene
state is metres, radians and seconds; its static part alone determines the MuJoCo model.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import gymnasium
import mujoco
import numpy as np
import torch

from tokenizer.clip import shrink
from tokenizer.scene import StateReader
from train.worlds.contract import step_info
from train.worlds.tabletop.captions import caption
from train.worlds.tabletop.offscreen import Offscreen
from train.worlds.tabletop.schema import (
    ACTIONS,
    BODIES,
    COLOURS,
    HALF_WIDTH,
    RESOLUTIONS,
    SEGMENTED,
    SHAPES,
    SUBSTANCES,
    VIEW,
    tabletop_schema,
)

TARGET_RADIUS = 0.1
RENDERED = 128  # pixels of a picture at the least

_COLOURS = dict(
    zip(
        COLOURS,
        (
            (0.86, 0.10, 0.10),
            (0.08, 0.62, 0.16),
            (0.10, 0.28, 0.92),
            (0.96, 0.86, 0.08),
            (0.58, 0.14, 0.76),
            (1.0, 0.47, 0.02),
        ),
        strict=True,
    )
)
_PHYSICS_STEPS = 4  # per picture
_PUSHES = {"north": (0, 1), "south": (0, -1), "west": (-1, 0), "east": (1, 0)}
_TOP_SPEED = 0.9  # of a pushed player, m/s
_STIFFNESS = 150.0**2  # of contacts, 1/s^2: half a period, one bounce, lasts five physics steps
_CAMERA_DRIVE, _CAMERA_DAMPING = 4.5, 4.5  # rad/s^2 and 1/s: at most 1 rad/s
_LIGHT_HEIGHT = math.radians(55)
_DIFFUSE, _SPECULAR = 0.68, 0.6  # of the light at its brightest; what else there is stays when it goes out


@dataclass(frozen=True, kw_only=True)
class Material:
    """``drag`` 1/s and ``grip`` m/s^2 slow a free body, ``player_drag`` the player's; ``bounce`` is a damping ratio."""

    density: float
    drag: float
    player_drag: float
    grip: float
    bounce: float
    tint: tuple[float, float, float]
    tint_share: float
    specular: float
    shininess: float
    alpha: float = 1.0


MATERIALS = {
    "rubber": Material(
        density=1000, drag=1.3, player_drag=6.6, grip=0.25, bounce=0.06, tint=(0, 0, 0), tint_share=0.0,
        specular=0.05, shininess=0.1,
    ),
    "metal": Material(
        density=3000, drag=0.8, player_drag=5.6, grip=0.15, bounce=0.16, tint=(0.3, 0.32, 0.36), tint_share=0.25,
        specular=0.5, shininess=0.6,
    ),
    "wood": Material(
        density=600, drag=1.1, player_drag=6.2, grip=0.22, bounce=0.35, tint=(0.45, 0.27, 0.12), tint_share=0.2,
        specular=0.0, shininess=0.0,
    ),
    "glass": Material(
        density=1600, drag=0.5, player_drag=5.2, grip=0.08, bounce=0.1, tint=(1, 1, 1), tint_share=0.2,
        specular=0.6, shininess=0.9, alpha=0.72,
    ),
}  # fmt: skip
assert tuple(MATERIALS) == SUBSTANCES


def sample_scene(rng: np.random.Generator) -> dict[str, dict[str, Any]]:
    """A random start, as an edit of the all-zero state: bodies apart from each other and from the walls."""

    def spot(reach: float) -> np.ndarray:
        return rng.uniform(-HALF_WIDTH + reach, HALF_WIDTH - reach, 2)

    count = int(rng.integers(2, len(BODIES) + 1))
    colours = rng.choice(len(_COLOURS), count, replace=False)
    colours[1:].sort()
    scene: dict[str, dict[str, Any]] = {}
    taken: list[tuple[np.ndarray, float]] = []
    for name, colour in zip(BODIES, colours, strict=False):
        shape, size = SHAPES[rng.integers(3)], float(rng.uniform(0.055, 0.1))
        reach = _reach(shape, size)
        place = spot(reach + 0.01)
        while any(np.hypot(*(place - other)) < reach + room + 0.02 for other, room in taken):
            place = spot(reach + 0.01)
        taken.append((place, reach))
        heading, speed = rng.uniform(-math.pi, math.pi), rng.uniform(0.15, 0.8)
        if name == "player" or rng.random() < 0.5:
            speed = 0.0
        scene[name] = {
            "present": True,
            "shape": shape,
            "colour": list(_COLOURS)[colour],
            "material": list(MATERIALS)[rng.integers(len(MATERIALS))],
            "size": size,
            "position": place.tolist(),
            "velocity": (speed * math.cos(heading), speed * math.sin(heading)),
            "yaw": float(rng.uniform(0, math.pi / 2)) if shape == "box" else 0.0,
        }
    goal = spot(TARGET_RADIUS + 0.02)
    while np.hypot(*(goal - taken[0][0])) < 0.25:
        goal = spot(TARGET_RADIUS + 0.02)
    rate = 0.0 if rng.random() < 0.2 else float(rng.uniform(0.1, 0.6) * rng.choice([-1, 1]))
    scene["camera"] = {"azimuth": float(rng.uniform(-0.5, 0.5)) if rng.random() < 0.6 else 0.0}
    scene["light"] = {
        "angle": float(rng.uniform(-math.pi, math.pi)),
        "rate": rate,
        "brightness": float(np.interp(rng.random(), (0.1, 0.25, 1), (0, 0.5, 1))),  # in a tenth of scenes it is out
    }
    scene["target"] = {"position": goal.tolist()}
    return scene


def _reach(shape: str, size: float) -> float:
    """Radius of the circle that a body of this half extent may turn in."""
    return size * math.sqrt(2) if shape == "box" else size


def _numbers(*values: float) -> str:
    return " ".join(f"{v:.6g}" for v in values)


def mjcf(scene: Mapping[str, Mapping[str, Any]], rendered: int = RENDERED) -> str:
    """The MuJoCo model, as text, of a scene in ``StateSchema.to_dict``'s form, to be drawn at ``rendered`` pixels.

    Only the scene's static fields are used.
    """
    half, wall, height = HALF_WIDTH, 0.02, 0.025
    bounce = _numbers(-_STIFFNESS, -2 * 0.05 * math.sqrt(_STIFFNESS))
    walls = "".join(
        f'<geom name="wall_{side}" type="box" pos="{_numbers(x, y, height)}" size="{_numbers(w, d, height)}" '
        f'rgba="0.36 0.27 0.22 1" solref="{bounce}"/>'
        for side, x, y, w, d in (
            ("north", 0, half + wall, half + 2 * wall, wall),
            ("south", 0, -half - wall, half + 2 * wall, wall),
            ("west", -half - wall, 0, wall, half),
            ("east", half + wall, 0, wall, half),
        )
    )
    bodies = ""
    for name in BODIES:
        if not scene[name]["present"]:
            continue
        body = scene[name]
        material, size, shape = MATERIALS[body["material"]], body["size"], body["shape"]
        volume = {"ball": 4 / 3 * math.pi, "box": 8.0, "cylinder": 2 * math.pi}[shape] * size**3
        mass = material.density * volume
        drag = material.player_drag if name == "player" else material.drag
        inertia = mass * size**2 * 2 / 3
        extent = {"ball": (size,), "box": (size, size, size), "cylinder": (size, size)}[shape]
        kind = {"ball": "sphere", "box": "box", "cylinder": "cylinder"}[shape]
        share = material.tint_share
        rgb = (c * (1 - share) + t * share for c, t in zip(_COLOURS[body["colour"]], material.tint, strict=True))
        look = f'rgba="{_numbers(*rgb, material.alpha)}"'
        contact = _numbers(-_STIFFNESS, -2 * material.bounce * math.sqrt(_STIFFNESS))
        slide = f'type="slide" damping="{_numbers(mass * drag)}" frictionloss="{_numbers(mass * material.grip)}"'
        turn = f'damping="{_numbers(inertia * 5 * drag)}" frictionloss="{_numbers(inertia * 2)}"'
        mark = ""
        if name == "player":
            top, flat = (0.82 * size, 0.3 * size) if shape == "ball" else (size, 0.004)
            mark = (
                f'<geom name="mark" type="ellipsoid" pos="0 0 {top:.6g}" size="{_numbers(size / 2, size / 2, flat)}" '
                'rgba="1 1 1 1" material="mark" mass="0" contype="0" conaffinity="0"/>'
            )
        bodies += (
            f'<body name="{name}" pos="0 0 {size:.6g}">'
            f'<joint name="{name}_x" axis="1 0 0" {slide}/><joint name="{name}_y" axis="0 1 0" {slide}/>'
            f'<joint name="{name}_yaw" type="hinge" axis="0 0 1" {turn}/>'
            f'<geom name="{name}" type="{kind}" size="{_numbers(*extent)}" mass="{mass:.6g}" {look} '
            f'material="{body["material"]}" solref="{contact}"/>{mark}</body>'
        )
    materials = "".join(
        f'<material name="{name}" specular="{m.specular}" shininess="{m.shininess}"/>' for name, m in MATERIALS.items()
    )
    x, y = scene["target"]["position"]
    return f"""<mujoco>
<option timestep="{1 / 240}" gravity="0 0 0" integrator="implicitfast"/>
<visual>
  <global fovy="{math.degrees(VIEW.fovy)}" offwidth="{rendered}" offheight="{rendered}"/>
  <headlight ambient="0.42 0.42 0.42" diffuse="0.1 0.1 0.1" specular="0 0 0"/>
  <quality offsamples="4" numslices="24" numstacks="12"/><map znear="0.1" zfar="20"/>
</visual>
<statistic extent="1" center="0 0 0"/>
<default><geom condim="1" solimp="0.95 0.99 0.001"/></default>
<asset>{materials}<material name="mark" emission="0.35" specular="0"/><material name="matt" specular="0"/></asset>
<worldbody>
  <light type="directional" castshadow="false" diffuse="{_numbers(*[_DIFFUSE] * 3)}" \
specular="{_numbers(*[_SPECULAR] * 3)}" ambient="0 0 0" dir="0 0 -1"/>
  <geom name="ground" type="plane" size="9 9 1" pos="0 0 -0.01" rgba="0.15 0.18 0.24 1" material="matt" contype="0" \
conaffinity="0"/>
  <geom name="floor" type="box" size="{_numbers(half, half, 0.005)}" pos="0 0 -0.005" rgba="0.80 0.78 0.73 1" \
material="matt" contype="0" conaffinity="0"/>
  <geom name="target" type="cylinder" size="{_numbers(TARGET_RADIUS, 0.001)}" pos="{_numbers(x, y, 0.001)}" \
rgba="0.16 0.72 0.76 1" material="matt" contype="0" conaffinity="0"/>
  {walls}{bodies}
</worldbody>
</mujoco>"""


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Everything a Tabletop needs to go on exactly as it would have."""

    static: np.ndarray
    physics: np.ndarray
    camera: tuple[float, float]
    light: tuple[float, float, float]
    outcome: bool
    caption: str
    generator: Mapping[str, Any]


class Tabletop(gymnasium.Env[np.ndarray, np.int64]):
    """The simulator. Observations are uint8 ``(resolution, resolution, 3)``, the last picture of the step.

    Actions are the indices of ``ACTIONS``: pushes go in the table's directions (north is away from a camera at
    azimuth 0), orbits turn the camera with inertia. Reward is 1, and the episode terminates, when the player's
    body rests on the target at the end of a step.

    ``info`` holds ``state`` float32 ``(num_values,)``, ``states`` ``(frames, num_values)``, ``frames``
    uint8 ``(frames, resolution, resolution, 3)`` (1 after reset, 4 after a step), ``caption``, and with
    ``segmentation=True`` ``segmentation`` uint8 ``(frames, 64, 64)``: entity index + 1, 0 for the table.

    Args:
        resolution: 256, 128, or 64 (128 halved, as recordings are).
        physics_only: draw nothing: observations are black and ``frames`` is missing. Needs no OpenGL.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(
        self,
        resolution: int = 64,
        *,
        segmentation: bool = False,
        physics_only: bool = False,
        render_mode: str | None = "rgb_array",
    ) -> None:
        if resolution not in RESOLUTIONS:
            raise ValueError(f"resolution {resolution} is not drawn by Tabletop: choose 64, 128 or 256")
        self.resolution, self.segmentation, self.render_mode = resolution, segmentation, render_mode
        self.schema = tabletop_schema()
        self._read = StateReader(self.schema)
        self.observation_space = gymnasium.spaces.Box(0, 255, (resolution, resolution, 3), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(len(ACTIONS))
        self._rendered = max(resolution, RENDERED)
        self._offscreen = None if physics_only else Offscreen(self._rendered)
        self._static: np.ndarray | None = None
        is_static = np.zeros(self.schema.num_values, dtype=bool)
        for slot in self.schema.static_slots:
            is_static[slot.columns] = True
        self._is_static = is_static

    # -- Gymnasium ----------------------------------------------------------------------------------

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        """Starts a new scene. ``options={"state": {"player": {"position": (0.1, 0)}}}`` writes over parts of it.

        Raises ValueError for an edit that the schema refuses or that lets bodies overlap.
        """
        super().reset(seed=seed)
        values = self.schema.write(torch.zeros(self.schema.num_values), sample_scene(self.np_random))
        edit = (options or {}).get("state")
        if edit is not None:
            values = self.schema.write(values, edit)
        values = self._read.begun(values[None])[0]
        self.caption = ""
        self._load(values)
        self.caption = caption(self.schema.to_dict(values), self.np_random)
        return self._observe([self._record()])

    def step(self, action: int | np.integer) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(np.int64(action)):
            raise ValueError(f"Tabletop has actions 0 to {len(ACTIONS) - 1} ({', '.join(ACTIONS)}), got {action!r}")
        if self._static is None:
            raise ValueError("call reset() before step()")
        name = ACTIONS[int(action)]
        self._data.qfrc_applied[:2] = self._push * np.array(_PUSHES.get(name, (0, 0)))
        drive = _CAMERA_DRIVE * ((name == "orbit_right") - (name == "orbit_left"))
        records = []
        for frame in range(self.schema.frames_per_step):
            mujoco.mj_step(self._model, self._data, _PHYSICS_STEPS)
            self._turn_camera_and_light(drive)
            if frame == self.schema.frames_per_step - 1:
                self._outcome = self._rests_on_target()
            records.append(self._record())
        observation, info = self._observe(records)
        return observation, float(self._outcome), self._outcome, False, info

    def render(self) -> np.ndarray:  # type: ignore[override]
        """The present picture, uint8 ``(resolution, resolution, 3)``."""
        return self._draw()[0]

    def close(self) -> None:
        if self._offscreen is not None:
            self._offscreen.close()
            self._offscreen = None

    # -- state --------------------------------------------------------------------------------------

    @property
    def state(self) -> np.ndarray:
        """The scene state, float32 ``(num_values,)``."""
        assert self._static is not None
        values = self._static.copy()
        qpos, qvel = self._data.qpos, self._data.qvel
        for i, name in enumerate(self._bodies):
            values[self._at(name, "position")] = qpos[3 * i : 3 * i + 2]
            values[self._at(name, "velocity")] = qvel[3 * i : 3 * i + 2]
            if self._is_box[i]:
                values[self._at(name, "yaw")] = qpos[3 * i + 2] % (math.pi / 2)
                values[self._at(name, "yaw_rate")] = qvel[3 * i + 2]
        values[self._at("camera", "azimuth")], values[self._at("camera", "azimuth_rate")] = self._camera
        for name, value in zip(("angle", "rate", "brightness"), self._light, strict=True):
            values[self._at("light", name)] = value
        values[self._at("episode", "reward")] = values[self._at("episode", "terminated")] = self._outcome
        return values

    def write_state(self, edit: Mapping[str, Mapping[str, Any]] | np.ndarray) -> np.ndarray:
        """Replaces the state in the middle of an episode: a whole vector, or ``{entity: {field: value}}``.

        Reward and termination follow from the rest and can't be written. Returns the new state.
        Raises ValueError for what the schema refuses and for bodies that would overlap.
        """
        if isinstance(edit, Mapping):
            values = self.schema.write(torch.from_numpy(self.state), edit)
        else:
            values = torch.as_tensor(np.asarray(edit, dtype=np.float32))
        self._load(values)
        return self.state

    def snapshot(self) -> Snapshot:
        assert self._static is not None
        kind = mujoco.mjtState.mjSTATE_INTEGRATION
        physics = np.empty(mujoco.mj_stateSize(self._model, kind))
        mujoco.mj_getState(self._model, self._data, physics, kind)
        return Snapshot(
            static=self._static.copy(),
            physics=physics,
            camera=self._camera,
            light=self._light,
            outcome=self._outcome,
            caption=self.caption,
            generator=self.np_random.bit_generator.state,
        )

    def restore(self, snapshot: Snapshot) -> None:
        """Goes on from ``snapshot``, also one of another episode or environment."""
        if self._static is None or not np.array_equal(self._static, snapshot.static):
            self._build(snapshot.static)
        mujoco.mj_setState(self._model, self._data, snapshot.physics, mujoco.mjtState.mjSTATE_INTEGRATION)
        self._camera, self._light, self._outcome = snapshot.camera, snapshot.light, snapshot.outcome
        self.caption = snapshot.caption
        self.np_random.bit_generator.state = snapshot.generator

    # -- within -------------------------------------------------------------------------------------

    def _at(self, entity: str, field: str) -> slice:
        return self.schema.columns(entity, field)

    def _load(self, values: torch.Tensor) -> None:
        scene = self.schema.to_dict(values)
        self._refuse_overlap(scene)
        array = values.numpy().astype(np.float32)
        for name in BODIES:
            if not scene[name]["present"]:
                for f in self.schema.entity(name).fields:
                    array[self._at(name, f.name)] = 0
        static = np.where(self._is_static, array, 0).astype(np.float32)
        if self._static is None or not np.array_equal(static, self._static):
            self._build(static)
        mujoco.mj_resetData(self._model, self._data)
        for i, name in enumerate(self._bodies):
            body = scene[name]
            self._data.qpos[3 * i : 3 * i + 3] = (*body["position"], body["yaw"] if self._is_box[i] else 0)
            self._data.qvel[3 * i : 3 * i + 3] = (*body["velocity"], body["yaw_rate"] if self._is_box[i] else 0)
        mujoco.mj_forward(self._model, self._data)
        self._camera = (scene["camera"]["azimuth"], scene["camera"]["azimuth_rate"])
        self._light = (scene["light"]["angle"], scene["light"]["rate"], scene["light"]["brightness"])
        self._outcome = False

    def _build(self, static: np.ndarray) -> None:
        scene = self.schema.to_dict(torch.from_numpy(static))
        self._static = static
        self._model = mujoco.MjModel.from_xml_string(mjcf(scene, self._rendered))
        self._data = mujoco.MjData(self._model)
        self._bodies = [name for name in BODIES if scene[name]["present"]]
        self._is_box = [scene[name]["shape"] == "box" for name in self._bodies]
        self._sizes = np.array([scene[name]["size"] for name in self._bodies])
        self._target = np.array(scene["target"]["position"])
        material = MATERIALS[scene["player"]["material"]]
        self._push = self._model.body("player").mass[0] * (_TOP_SPEED * material.player_drag + material.grip)
        if self._offscreen is not None:
            entity_of_geom = np.zeros(self._model.ngeom, dtype=np.uint8)
            names = [e.name for e in self.schema.entities]
            for geom in range(self._model.ngeom):
                name = self._model.geom(geom).name.replace("mark", "player")
                if name in names:
                    entity_of_geom[geom] = names.index(name) + 1
            self._offscreen.load(self._model, entity_of_geom)

    def _refuse_overlap(self, scene: Mapping[str, Mapping[str, Any]]) -> None:
        if not scene["player"]["present"]:
            raise ValueError("a Tabletop scene needs its player: player.present must stay true")
        bodies = [name for name in BODIES if scene[name]["present"]]
        slack = 0.012  # bodies press into each other by millimetres when they collide
        for i, name in enumerate(bodies):
            x, y = scene[name]["position"]
            room = HALF_WIDTH - scene[name]["size"] + slack
            if max(abs(x), abs(y)) > room:
                raise ValueError(
                    f"{name} at ({x:.3g}, {y:.3g}) would stand in a wall: keep it within ±{room - slack:.3g} m"
                )
            for other in bodies[:i]:
                u, v = scene[other]["position"]
                apart = _apart(scene[name]["size"], scene[name]["shape"], scene[other]["size"], scene[other]["shape"])
                if math.hypot(x - u, y - v) < apart - slack:
                    raise ValueError(f"{name} would overlap {other}: keep their middles at least {apart:.3g} m apart")

    def _turn_camera_and_light(self, drive: float) -> None:
        dt, limit = 1 / self.schema.fps, math.pi / 4
        azimuth, rate = self._camera
        rate += dt * (drive - _CAMERA_DAMPING * rate)
        azimuth += dt * rate
        if abs(azimuth) >= limit:
            azimuth, rate = math.copysign(limit, azimuth), 0.0
        self._camera = (azimuth, 0.0 if drive == 0 and abs(rate) < 1e-3 else rate)
        angle, rate, brightness = self._light
        self._light = ((angle + dt * rate + math.pi) % (2 * math.pi) - math.pi, rate, brightness)

    def _rests_on_target(self) -> bool:
        near = math.dist(self._data.qpos[:2], self._target) < 0.7 * TARGET_RADIUS
        return near and math.hypot(*self._data.qvel[:2]) < 0.08

    def _record(self) -> dict[str, np.ndarray]:
        record = {"states": self.state}
        if self._offscreen is not None:
            record["frames"], entity_map = self._draw()
            if entity_map is not None:
                record["segmentation"] = entity_map
        return record

    def _draw(self) -> tuple[np.ndarray, np.ndarray | None]:
        if self._offscreen is None:
            return np.zeros(self.observation_space.shape or (), dtype=np.uint8), None
        angle, _, brightness = self._light
        self._model.light_diffuse[:], self._model.light_specular[:] = brightness * _DIFFUSE, brightness * _SPECULAR
        flat, steep = math.cos(_LIGHT_HEIGHT), math.sin(_LIGHT_HEIGHT)
        light = np.array([-flat * math.cos(angle), -flat * math.sin(angle), -steep])
        mujoco.mj_kinematics(self._model, self._data)  # mj_step leaves the poses one physics step behind
        self._offscreen.place(self._data, VIEW, self._camera[0], light)
        entity_map = self._offscreen.entity_map(SEGMENTED) if self.segmentation else None
        places = self._data.qpos.reshape(-1, 3)[:, :2]
        shadows = np.column_stack([places, self._sizes])
        picture = self._offscreen.picture(shadows, light, min(1.0, 2 * brightness))
        return shrink(picture, self.resolution), entity_map

    def _observe(self, records: list[dict[str, np.ndarray]]) -> tuple[np.ndarray, dict[str, Any]]:
        info = step_info(records, self.caption)
        frame = records[-1].get("frames")
        return self._draw()[0] if frame is None else frame, info


def _apart(size: float, shape: str, other_size: float, other_shape: str) -> float:
    """Least distance of two bodies' middles at which they touch for certain not, however they are turned.

    Boxes are counted by their inner circle: what is refused certainly overlaps; corners may still push apart.
    """
    if shape == other_shape == "ball":
        return 2 * math.sqrt(size * other_size)
    return size + other_size if max(size, other_size) <= 2 * min(size, other_size) else 0.0
