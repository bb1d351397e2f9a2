"""Doom's rooms seen in first person: textures, depth and quick turns, a hard picture for a tokenizer (VizDoom).

The scenario is ViZDoom's ``my_way_home`` (Kempka et al. 2016, arXiv:1605.02097), which its pip package ships: rooms and
corridors with different walls, and a vest in one of them. Each action holds for 4 of Doom's tics, 35 a second.
"""

from __future__ import annotations

import math
import tempfile
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np

from tokenizer.clip import shrink
from train.worlds.contract import step_info
from train.worlds.doom.schema import ACTIONS, doom_schema

_COMPASS = ("east", "north-east", "north", "north-west", "west", "south-west", "south", "south-east")


class Doom(gymnasium.Env[np.ndarray, np.int64]):
    """The game, without sound or a window. Reward is 1, and the episode terminates, when the vest is found.

    Observations, actions and ``info`` are like Tabletop's; the game is a function of the seed and the actions.
    Raises ImportError when ViZDoom is not installed, and ValueError for a resolution other than 128 or 64.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 35 / 4}

    def __init__(self, resolution: int = 64, *, render_mode: str | None = "rgb_array") -> None:
        if resolution not in (64, 128):
            raise ValueError(f"resolution {resolution} is not drawn by Doom: choose 64 or 128")
        try:
            import vizdoom
        except ImportError as error:
            raise ImportError("Doom needs ViZDoom: pip install -c constraints.txt -e '.[doom]'") from error
        self.resolution, self.render_mode, self.schema = resolution, render_mode, doom_schema()
        self.observation_space = gymnasium.spaces.Box(0, 255, (resolution, resolution, 3), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(len(ACTIONS))
        variable, button = vizdoom.GameVariable, vizdoom.Button
        self._game = game = vizdoom.DoomGame()
        game.load_config(str(Path(vizdoom.scenarios_path) / "my_way_home.cfg"))
        game.set_doom_config_path(str(Path(tempfile.gettempdir()) / "_vizdoom.ini"))  # not the working folder
        game.set_window_visible(False)
        game.set_mode(vizdoom.Mode.PLAYER)
        game.set_screen_resolution(vizdoom.ScreenResolution.RES_320X256)
        game.set_screen_format(vizdoom.ScreenFormat.RGB24)
        for shown in (game.set_render_hud, game.set_render_weapon, game.set_render_crosshair):
            shown(False)
        variables = [variable.POSITION_X, variable.POSITION_Y, variable.VELOCITY_X, variable.VELOCITY_Y, variable.ANGLE]
        game.set_available_game_variables(variables)
        game.set_available_buttons([button.MOVE_FORWARD, button.TURN_LEFT, button.TURN_RIGHT])
        game.init()
        self._record: dict[str, np.ndarray] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._game.set_seed(int(self.np_random.integers(2**31)))
        self._game.new_episode()
        self._record = self._look(found=False)
        east, north = self._record["states"][:2]
        side = ("north" if north > -270 else "south") + ("-east" if east > 750 else "-west")
        facing = _COMPASS[round(float(self._record["states"][4]) / (math.pi / 4)) % 8]
        self.caption = f"rooms seen by a walker in the {side} who faces {facing}"
        return self._record["frames"], step_info([self._record], self.caption)

    def step(self, action: int | np.integer) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(np.int64(action)):
            raise ValueError(f"Doom has actions 0 to {len(ACTIONS) - 1} ({', '.join(ACTIONS)}), got {action!r}")
        if self._record is None:
            raise ValueError("call reset() before step()")
        name = ACTIONS[int(action)]
        self._game.set_action([name.startswith("forward"), name.endswith("left"), name.endswith("right")])
        records = []
        for _ in range(self.schema.frames_per_step):
            if not self._game.is_episode_finished():
                self._game.advance_action(1)
            self._record = self._look(found=self._game.is_episode_finished())
            records.append(self._record)
        found = bool(records[-1]["states"][-1])
        info = step_info(records, self.caption)
        return self._record["frames"], float(found), found, False, info

    def _look(self, *, found: bool) -> dict[str, np.ndarray]:
        """Picture and state now; at the end of an episode, when the game shows nothing any more, those before."""
        seen = self._game.get_state()
        if seen is None:
            assert self._record is not None
            last = self._record["states"].copy()
            last[-2:] = found
            return {"frames": self._record["frames"], "states": last}
        picture = shrink(seen.screen_buffer[:, 32:288], self.resolution)
        east, north, u, v, degrees = np.asarray(seen.game_variables)
        heading = math.remainder(math.radians(degrees), 2 * math.pi)
        state = np.array([east, north, u, v, heading, found, found], dtype=np.float32)
        return {"frames": picture, "states": state}

    def render(self) -> np.ndarray:  # type: ignore[override]
        """The present picture, uint8 ``(resolution, resolution, 3)``."""
        assert self._record is not None, "reset() first"
        return self._record["frames"]

    def close(self) -> None:
        self._game.close()
