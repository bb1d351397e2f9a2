"""What the player may do: a list of named, discrete actions, numbered from 0."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from numbers import Integral

import numpy as np
import torch
from torch import Tensor


@dataclass(frozen=True)
class ActionSpace:
    """An action is meant by its name or by its number. No names at all: a video that nobody steers."""

    names: tuple[str, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"action names must differ from one another, got {', '.join(self.names)}")

    def __len__(self) -> int:
        return len(self.names)

    def index(self, action: object) -> int:
        """Local id of an action meant by name or number. Raises ValueError, listing the names, for any other."""
        if isinstance(action, str):
            if action in self.names:
                return self.names.index(action)
            raise ValueError(f"unknown action {action!r}; choose from {self._listed}")
        if not isinstance(action, Integral) or isinstance(action, bool):
            raise ValueError(f"an action is a name or a whole number, got {action!r}; choose from {self._listed}")
        number = int(action)
        if not 0 <= number < len(self):
            raise ValueError(f"action {number} is outside [0, {len(self)}); choose from {self._listed}")
        return number

    def batch(
        self, actions: str | int | Sequence[str | int] | Tensor | np.ndarray | np.generic | None, size: int
    ) -> Tensor:
        """Local ids, int64 ``(size,)``: one action for all rows, or one for each. None is refused like any unknown."""
        plain = actions.tolist() if isinstance(actions, Tensor | np.ndarray | np.generic) else actions
        rows = [plain] * size if plain is None or isinstance(plain, str | int | float) else list(plain)
        if len(rows) != size:
            raise ValueError(f"{len(rows)} actions for {size} worlds: give one for all, or one for each")
        return torch.tensor([self.index(a) for a in rows], dtype=torch.long)

    @property
    def _listed(self) -> str:
        return ", ".join(f"{i} {name}" for i, name in enumerate(self.names)) or "nothing: this world takes no actions"
