"""Tabletop: bodies of many shapes and materials on a walled table (MuJoCo).

Importing this package chooses, where nobody has, how MuJoCo draws without a display: that must happen before ``import
mujoco``, and every module here is imported after it.
"""

import ctypes
import os
from typing import Any

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


def __getattr__(name: str) -> Any:
    if name == "RECIPE":
        from train.worlds.tabletop.recipe import RECIPE

        return RECIPE
    raise AttributeError(f"module {__name__} has no attribute {name}")
