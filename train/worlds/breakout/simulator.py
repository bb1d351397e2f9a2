"""Atari's Breakout: hard edges, exact motion, and a wall that is broken brick by brick (ALE, ale-py).

The game runs in the Arcade Learning Environment (Bellemare et al. 2013, arXiv:1207.4708), whose pip package brings the
ROM. As Machado et al. 2018 (arXiv:1709.06009) advise, an action holds for 4 of the 60 frames a second and each frame
repeats the one before with probability 0.25. Unlike there, all 4 frames are shown, in colour, with the state of each.

The state is read from the console's memory, not from the picture. The ball moves by its ``velocity`` each frame, and
the paddle halves its distance to ``aim``, which an action moves by 3 pixels a frame. What a bounce does to the velocity
depends on where the paddle is hit and on ``hits``, the times it has hit this ball.
"""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium
import numpy as np

from train.worlds.breakout.behaviours import PADDLE_Y, tracker
from train.worlds.breakout.schema import ACTIONS, COLUMNS, RESOLUTION, ROWS, breakout_schema
from train.worlds.contract import step_info

STICKY = 0.25  # how likely a frame repeats the action of the one before
NOWHERE = (40.125, 48.125)  # the position of a ball that isn't there: none leaps further from or to it than 48
_NUMBERS = ("no", "one", "two", "three", "four", "five")

# A row of bricks is six bytes of memory: the playfield registers PF0, PF1 and PF2 of the left and of the right half.
# Here are those of the first row (each row below has the bytes before) and the lower of the two bits of each brick.
_REGISTERS = ((35, (6,)), (29, (6, 4, 2, 0)), (23, (0, 2, 4, 6)), (17, (4, 6)), (11, (6, 4, 2, 0)), (5, (0, 2, 4)))
_BYTES = np.array([byte - row for row in range(ROWS) for byte, bits in _REGISTERS for _ in bits])
_BITS = np.array([bit for _ in range(ROWS) for _, bits in _REGISTERS for bit in bits])


def read_memory(memory: np.ndarray, *, reward: bool = False, terminated: bool = False) -> np.ndarray:
    """The console's memory, uint8 (128,), as a state, float32 (123,)."""
    byte = memory.tolist()

    def fixed(whole: int, part: int) -> float:  # a signed number of 8 bits with 8 more after the point
        return (byte[whole] + 128) % 256 - 128 + byte[part] / 256

    half = byte[108] / 2
    present = byte[101] > 0
    ball = [*NOWHERE, 0.0, 0.0]
    if present:
        # One pixel is 2 of the screen's, of which the first is seen; an eighth puts its middle into the right one.
        ball[0] = min(max((byte[99] + byte[100] / 256 - 49) / 2 + 0.625, 3.625), 76.875)  # behind the sides at most
        ball[1] = min((byte[101] + byte[102] / 256 - 23) / 2 + 1.125, 95.875)
        ball[2:] = -fixed(105, 106) / 2, fixed(103, 104) / 2
    paddle = [(byte[72] - 47) / 2 + half + 0.125, PADDLE_Y, half, (188 - byte[70]) / 2 + half + 0.125]
    score = sum(place * digit for place, digit in zip((1, 10, 100), (byte[77] & 15, byte[77] >> 4, byte[76] & 15)))
    game = [score, byte[57], byte[107] & 15, byte[107] >> 7, reward, terminated]
    return np.concatenate([ball, [present], paddle, (memory[_BYTES] >> _BITS) & 1, game], dtype=np.float32)


class Breakout(gymnasium.Env[np.ndarray, np.int64]):
    """The game. Reward is 1 in a step that breaks a brick; the episode terminates with the last life.

    It begins somewhere within a game that a good player has begun, so walls and lives differ. Observations, actions and
    ``info`` are like Tabletop's; the game is a function of the seed and the actions. Raises ImportError when ale-py is
    not installed, and ValueError for a resolution other than 80.
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 15}

    def __init__(self, resolution: int = RESOLUTION, *, render_mode: str | None = "rgb_array") -> None:
        if resolution != RESOLUTION:
            raise ValueError(f"resolution {resolution} is not drawn by Breakout: choose {RESOLUTION}")
        try:
            import ale_py.roms
        except ImportError as error:
            raise ImportError("Breakout needs ale-py: pip install -c constraints.txt -e '.[atari]'") from error
        self.resolution, self.render_mode, self.schema = resolution, render_mode, breakout_schema()
        self.observation_space = gymnasium.spaces.Box(0, 255, (resolution, resolution, 3), np.uint8)
        self.action_space = gymnasium.spaces.Discrete(len(ACTIONS))
        ale_py.ALEInterface.setLoggerMode(ale_py.LoggerMode.Error)
        self._ale = ale_py.ALEInterface()
        self._ale.setFloat("repeat_action_probability", 0.0)  # _press does it, from the environment's own generator
        self._ale.setInt("frame_skip", 1)
        self._ale.setInt("random_seed", 0)
        self._ale.loadROM(str(ale_py.roms.get_rom_path("breakout")))
        self._ale.reset_game()
        self._start = self._ale.cloneState()
        self._buttons = [getattr(ale_py.Action, name.upper()) for name in ACTIONS]
        self._pressed = self._buttons[0]
        self._record: dict[str, np.ndarray] | None = None

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self._play_in()
        self._record = self._look()
        self.caption = self._describe(self._record["states"])
        return self._record["frames"], step_info([self._record], self.caption)

    def _play_in(self) -> None:
        """Plays a random number of steps, mostly few; anew where the game would be over."""
        while True:
            self._ale.restoreState(self._start)
            self._pressed = self._buttons[0]
            act = tracker(self.np_random, careless=0.0)
            most = self.np_random.choice([2, 300, 2000], p=[0.1, 0.4, 0.5])
            for _ in range(self.np_random.integers(1, most)):  # at least one, which draws the picture
                action = act(read_memory(self._ale.getRAM()))
                for _ in range(self.schema.frames_per_step):
                    self._press(action)
            if not self._ale.game_over():
                return

    def _describe(self, state: np.ndarray) -> str:
        def value(entity: str, field: str) -> np.ndarray:
            return state[self.schema.columns(entity, field)]

        lives = int(value("game", "lives")[0])
        gone = ROWS * COLUMNS - int(value("wall", "bricks").sum())
        wall = "a full wall" if not gone else f"{gone} brick{'s' * (gone > 1)} gone"
        parts = [f"{_NUMBERS[lives]} {'life' if lives == 1 else 'lives'}", wall]
        if value("paddle", "size")[0] < 4:
            parts.append("a short paddle")
        opening = str(self.np_random.choice(["breakout", "a game of breakout", "ball and paddle"]))
        return f"{opening} with {', '.join(parts[:-1])} and {parts[-1]}"

    def step(self, action: int | np.integer) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(np.int64(action)):
            raise ValueError(f"Breakout has actions 0 to {len(ACTIONS) - 1} ({', '.join(ACTIONS)}), got {action!r}")
        if self._record is None:
            raise ValueError("call reset() before step()")
        records, reward = [], False
        for _ in range(self.schema.frames_per_step):
            if not self._ale.game_over():
                reward |= self._press(int(action)) > 0
            self._record = self._look(reward=reward)
            records.append(self._record)
        info = step_info(records, self.caption)
        return self._record["frames"], float(reward), self._ale.game_over(), False, info

    def _press(self, action: int) -> int:
        """One frame with the action, or with the one before it. Returns the points it brought."""
        if self.np_random.random() >= STICKY:
            self._pressed = self._buttons[action]
        return self._ale.act(self._pressed)

    def _look(self, *, reward: bool = False) -> dict[str, np.ndarray]:
        """Picture and state now; ``reward`` tells whether a brick was broken so far in the step."""
        picture = np.ascontiguousarray(self._ale.getScreenRGB()[32:192:2, ::2])  # keeps the ball, 2x4, in 1x2 pixels
        state = read_memory(self._ale.getRAM(), reward=reward, terminated=self._ale.game_over())
        return {"frames": picture, "states": state}

    def render(self) -> np.ndarray:  # type: ignore[override]
        """The present picture, uint8 ``(80, 80, 3)``."""
        assert self._record is not None, "reset() first"
        return self._record["frames"]
