"""A window that shows an environment's pictures, by pygame."""

from __future__ import annotations

from typing import Any

import numpy as np

_SIDE = 512  # pixels of its shorter side, about


class Window:
    """Opens with the first picture. Raises ImportError where pygame is missing."""

    def __init__(self, title: str, fps: float) -> None:
        try:
            import pygame
        except ImportError:
            raise ImportError("a window needs pygame: pip install pygame-ce, or choose render mode rgb_array") from None
        self.title, self.fps, self._pygame = title, fps, pygame
        self._screen: Any = None

    def show(self, picture: np.ndarray) -> None:
        """Shows a picture, uint8 (H, W, 3), as long as a step lasts."""
        pygame, (height, width, _) = self._pygame, picture.shape
        scale = max(1, _SIDE // min(height, width))
        if self._screen is None:
            pygame.display.init()
            pygame.display.set_caption(self.title)
            self._screen, self._clock = pygame.display.set_mode((scale * width, scale * height)), pygame.time.Clock()
        pygame.event.pump()
        drawn = pygame.surfarray.make_surface(picture.swapaxes(0, 1))
        self._screen.blit(pygame.transform.scale_by(drawn, scale), (0, 0))
        pygame.display.flip()
        self._clock.tick(self.fps)

    def close(self) -> None:
        if self._screen is not None:
            self._pygame.display.quit()
            self._screen = None
