"""Worlds to record: simulators that are proper Gymnasium environments with a scene schema.

Importing this package registers them (``gymnasium.make("train.worlds:Tabletop-v0")``, ``Doom-v0``,
``AtariBreakout-v0``: ale-py takes the name ``Breakout-v0`` for its own) and, where nobody has chosen, chooses how
MuJoCo draws without a display. That must happen before ``import mujoco``.
"""

import ctypes
import os

import gymnasium


def _first_renderer() -> str:
    for name, library in (("egl", "libEGL.so.1"), ("osmesa", "libOSMesa.so.8"), ("osmesa", "libOSMesa.so.6")):
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return name
    return "disable"


if "MUJOCO_GL" not in os.environ and os.name == "posix" and os.uname().sysname == "Linux":
    os.environ["MUJOCO_GL"] = _first_renderer()
if os.environ.get("MUJOCO_GL") == "osmesa":
    os.environ.setdefault("PYOPENGL_PLATFORM", "osmesa")

if "Tabletop-v0" not in gymnasium.registry:
    gymnasium.register("Tabletop-v0", entry_point="train.worlds.tabletop.simulator:Tabletop", max_episode_steps=256)
    gymnasium.register("Doom-v0", entry_point="train.worlds.doom.simulator:Doom", max_episode_steps=512)
    gymnasium.register(
        "AtariBreakout-v0", entry_point="train.worlds.breakout.simulator:Breakout", max_episode_steps=4096
    )
