"""How the past is kept: a ring of whole steps, and anchors that never leave.

All rows of a batch share one clock; a row that is reset is simply *born* later, and what lies before its
birth is hidden from it. Keys in the ring are rotated by the absolute step and stay valid for ever. Header and
anchors are kept as if at step 0 and turned, each step, to a fixed distance just beyond the window: that is
where training shows them.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from worldmodel.rotary import rotate
from worldmodel.transformer import Dynamics, KeysValues, bias_of


@dataclass(frozen=True)
class Past:
    """Pieces of keys and values for one pass, and which of their keys each row may see: bool (B, keys)."""

    pieces: list[KeysValues]
    seen: Tensor


class StepCache:
    """The memory of ``batch`` streams. ``clock`` is the step that comes next; it never wraps."""

    def __init__(self, dynamics: Dynamics, batch: int, clock: int = 0) -> None:
        config, layout = dynamics.config, dynamics.layout
        self.dynamics, self.clock = dynamics, clock
        self.count = 1 + layout.num_state
        shape = (config.depth, batch, config.heads)

        def room(*size: int) -> KeysValues:
            empty = torch.zeros(*shape, *size, config.head_dim, device=dynamics.device, dtype=dynamics.dtype)
            return KeysValues(empty, empty.clone())

        self.ring = room(config.window, layout.step_length)
        self.header = room(layout.header_length)
        self.anchors = room(config.anchor_frames, layout.step_length)
        self.born = torch.full((batch,), clock)
        self.header_seen = torch.zeros(batch, layout.header_length, dtype=torch.bool)
        self._far: tuple[int, KeysValues, KeysValues] | None = None

    def __len__(self) -> int:
        return len(self.born)

    # -- writing ------------------------------------------------------------------------------------

    def begin(self, rows: Tensor, header: KeysValues, header_seen: Tensor, first: KeysValues) -> None:
        """Starts these rows anew: their first step becomes the one before ``clock`` (which must be above 0)."""
        assert self.clock > 0
        self.born[rows.cpu()] = self.clock - 1
        self.replace_header(rows, header, header_seen)
        slot = (self.clock - 1) % self.dynamics.config.window
        self.ring.keys[:, rows, :, slot], self.ring.values[:, rows, :, slot] = first.keys, first.values

    def replace_header(self, rows: Tensor, header: KeysValues, header_seen: Tensor) -> None:
        """Puts another header in its place, for rows whose scene was edited."""
        self.header_seen[rows.cpu()] = header_seen.cpu()
        self.header.keys[:, rows], self.header.values[:, rows] = header.keys, header.values
        self._far = None

    def commit(self, step: KeysValues) -> None:
        """Appends one whole step for all rows and moves the clock. Positions count steps, not frames."""
        slot = self.clock % self.dynamics.config.window
        self.ring.keys[:, :, :, slot], self.ring.values[:, :, :, slot] = step.keys, step.values
        home: Tensor | None = None
        for i in range(self.dynamics.config.anchor_frames):
            rows = (self.born + 1 + i == self.clock).nonzero()[:, 0]
            if len(rows):
                cos, sin = self.dynamics.turn(torch.tensor([-self.clock]))
                home = rotate(step.keys[:, rows], cos[0], sin[0])
                self.anchors.keys[:, rows, :, i], self.anchors.values[:, rows, :, i] = home, step.values[:, rows]
        self.clock += 1
        self._far = None

    # -- reading ------------------------------------------------------------------------------------

    def place_far(self, kept: KeysValues, step: int) -> KeysValues:
        """Keys kept as if at step 0, turned to just beyond the window of ``step``."""
        cos, sin = self.dynamics.turn(torch.tensor([step - self.dynamics.config.window - 1]))
        return KeysValues(rotate(kept.keys, cos[0], sin[0]), kept.values)

    def _turned(self) -> tuple[KeysValues, KeysValues]:
        """Header and anchors (depth, B, heads, frames, step, d) at their distance from ``clock``, once a step."""
        if self._far is None or self._far[0] != self.clock:
            self._far = self.clock, self.place_far(self.header, self.clock), self.place_far(self.anchors, self.clock)
        return self._far[1], self._far[2]

    def past(self, *, with_video: bool) -> Past:
        """What the step at ``clock`` may see of everything before it; without video for state passes."""
        config, length = self.dynamics.config, self.dynamics.layout.step_length if with_video else self.count
        header, anchors = self._turned()
        pieces = [header]
        age = self.clock - 1 - self.born  # steps since each row's first
        seen = [self.header_seen]
        for kept in (anchors, self.ring):
            if kept.keys.shape[3]:
                pieces.append(
                    KeysValues(kept.keys[..., :length, :].flatten(3, 4), kept.values[..., :length, :].flatten(3, 4))
                )
        for i in range(config.anchor_frames):
            seen.append((age + 1 > config.window + 1 + i)[:, None].expand(-1, length))
        for slot in range(config.window):
            since = (self.clock - 1 - slot) % config.window  # how long ago this slot was written
            seen.append((since <= age)[:, None].expand(-1, length))
        return Past(pieces, torch.cat(seen, 1).to(self.dynamics.device))

    # -- copies -------------------------------------------------------------------------------------

    def clone(self) -> StepCache:
        """An independent copy of all rows."""
        twin = object.__new__(StepCache)
        twin.__dict__.update(self.__dict__)
        for name in ("ring", "header", "anchors"):
            kept: KeysValues = getattr(self, name)
            setattr(twin, name, KeysValues(kept.keys.clone(), kept.values.clone()))
        twin.born, twin.header_seen, twin._far = self.born.clone(), self.header_seen.clone(), None
        return twin


def pass_bias(past: Past, inside: Tensor) -> Tensor | None:
    """Bias (B, 1, Q, keys) of a pass whose own slots see each other as ``inside`` (Q, Q') says; None if all is seen."""
    if bool(past.seen.all()) and bool(inside.all()):
        return None
    batch, queries = len(past.seen), len(inside)
    allowed = torch.cat(
        [past.seen[:, None].expand(-1, queries, -1), inside.to(past.seen.device).expand(batch, -1, -1)], 2
    )
    return bias_of(allowed, past.pieces[0].keys.dtype)[:, None]


def join(parts: list[KeysValues]) -> KeysValues:
    """Several passes of one step as a whole."""
    return KeysValues(torch.cat([p.keys for p in parts], 3), torch.cat([p.values for p in parts], 3))
