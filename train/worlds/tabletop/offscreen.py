"""A MuJoCo model as pictures and entity maps, without a display and without real shadows.

Shadow maps cost three to four times the picture. Instead every body lays a dark ellipse on the floor where a
ball of its size would cast its shadow under a directional light: no extra pass, and the light can be seen.
"""

from __future__ import annotations

import atexit
import math
import sys

import mujoco
import numpy as np

from tokenizer.view import Orbit

NO_GL = (
    "MuJoCo found no OpenGL library to draw with: install one (apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri, "
    "or libosmesa6 with MUJOCO_GL=osmesa), or pass physics_only=True"
)
_SHADOW = np.array([0.0, 0.0, 0.0, 0.3], dtype=np.float32)


def _wake_display() -> None:
    """Begins EGL's display again, where another library has ended it for all; else it changes nothing."""
    egl = sys.modules.get("mujoco.egl")
    if egl is not None and egl.EGL_DISPLAY is not None:
        egl.EGL.eglInitialize(egl.EGL_DISPLAY, None, None)


class Offscreen:
    """Draws one model after another at one size. ``load`` a model before drawing.

    Raises RuntimeError when the machine has no OpenGL, naming what to install.
    """

    def __init__(self, size: int) -> None:
        context = getattr(mujoco, "GLContext", None)
        try:
            if context is None:
                raise ImportError("MUJOCO_GL is disabled")
            _wake_display()
            self._gl = context(size, size)
            self._gl.make_current()
        except Exception as error:
            raise RuntimeError(f"{NO_GL} ({type(error).__name__}: {error})") from error
        atexit.register(self._gl.free)  # before MuJoCo lets go of the display
        self.size = size
        self._context: mujoco.MjrContext | None = None

    def load(self, model: mujoco.MjModel, entity_of_geom: np.ndarray) -> None:
        """Prepares for ``model``; ``entity_of_geom`` uint8 ``(ngeom,)`` is what the entity map shows for each geom."""
        self._gl.make_current()
        if self._context is not None:
            self._context.free()
        self._model, self._entity_of_geom = model, entity_of_geom
        self._scene = mujoco.MjvScene(model, maxgeom=model.ngeom + 16)
        for flag in ("SHADOW", "REFLECTION", "SKYBOX", "HAZE", "FOG"):
            self._scene.flags[getattr(mujoco.mjtRndFlag, f"mjRND_{flag}")] = 0
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_50)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._options, self._perturb, self._camera = mujoco.MjvOption(), mujoco.MjvPerturb(), mujoco.MjvCamera()
        self._entity_of_segment: np.ndarray | None = None

    def place(self, data: mujoco.MjData, view: Orbit, azimuth: float, light: np.ndarray) -> None:
        """Takes over where everything is. ``light``: unit vector ``(3,)`` the light travels along."""
        data.light_xdir[:] = light
        self._camera.lookat[:] = view.target
        self._camera.distance = view.distance
        self._camera.azimuth = 90.0 + math.degrees(azimuth)
        self._camera.elevation = -math.degrees(view.elevation)
        everything = mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, self._options, self._perturb, self._camera, everything, self._scene)

    def entity_map(self, size: int) -> np.ndarray:
        """uint8 ``(size, size)``: which entity each pixel shows, as told by ``entity_of_geom``."""
        scene = self._scene
        if self._entity_of_segment is None:  # the order of geoms stays for as long as the model does
            lookup = np.zeros(scene.maxgeom + 1, dtype=np.uint8)
            for geom in scene.geoms[: scene.ngeom]:
                if geom.objtype == mujoco.mjtObj.mjOBJ_GEOM:
                    lookup[geom.segid + 1] = self._entity_of_geom[geom.objid]
            self._entity_of_segment = lookup
        flags = (mujoco.mjtRndFlag.mjRND_SEGMENT, mujoco.mjtRndFlag.mjRND_IDCOLOR)
        for flag in flags:
            scene.flags[flag] = 1
        pixels = self._pixels(size)
        for flag in flags:
            scene.flags[flag] = 0
        return self._entity_of_segment[pixels[..., 0]]

    def picture(self, shadows: np.ndarray, light: np.ndarray, depth: float = 1.0) -> np.ndarray:
        """uint8 ``(size, size, 3)``. ``shadows``: ``(n, 3)``, x, y and half extent of what casts one; ``depth`` of 1 is
        how dark they are by day."""
        scene = self._scene
        drawn = scene.ngeom
        steepness = -light[2]
        along = math.atan2(light[1], light[0])
        turn = np.array(
            [math.cos(along), -math.sin(along), 0, math.sin(along), math.cos(along), 0, 0, 0, 1], dtype=np.float64
        )
        colour = _SHADOW * np.array([1, 1, 1, depth], dtype=np.float32)
        for x, y, size in shadows:
            middle = np.array([x, y, 0.004]) + size * np.array([light[0], light[1], 0.0]) / steepness
            extent = np.array([size / steepness, size, 0.0005])
            mujoco.mjv_initGeom(scene.geoms[scene.ngeom], mujoco.mjtGeom.mjGEOM_ELLIPSOID, extent, middle, turn, colour)
            scene.ngeom += 1
        pixels = self._pixels(self.size)
        scene.ngeom = drawn
        return pixels

    def _pixels(self, size: int) -> np.ndarray:
        assert self._context is not None, "load a model first"
        self._gl.make_current()
        area = mujoco.MjrRect(0, 0, size, size)
        mujoco.mjr_render(area, self._scene, self._context)
        pixels = np.empty((size, size, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(pixels, None, area, self._context)
        return np.ascontiguousarray(pixels[::-1])

    def close(self) -> None:
        if self._context is not None:
            self._context.free()
            self._context = None
        atexit.unregister(self._gl.free)
        self._gl.free()
