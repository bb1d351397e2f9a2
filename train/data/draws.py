"""Which windows a run sees: draws by number, an epoch at a time, and a loader that goes on after any of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler
from torchdata.stateful_dataloader import StatefulDataLoader


class Draws(Sampler[int]):
    """Hands out numbers of draws, each rank every ``world_size``-th, an epoch at a time."""

    def __init__(self, per_epoch: int, rank: int = 0, world_size: int = 1) -> None:
        self.per_epoch, self.rank, self.world_size = per_epoch // world_size, rank, world_size
        self.epoch, self.begin = 0, 0

    def __len__(self) -> int:
        return self.per_epoch

    def __iter__(self) -> Iterator[int]:
        """The draws of ``epoch`` from the ``begin``-th on."""
        first = self.epoch * self.per_epoch
        for position in range(self.begin, self.per_epoch):
            yield (first + position) * self.world_size + self.rank


class DrawLoader(StatefulDataLoader):
    """Batches of draws. Saved and loaded, it goes on after the last batch that was taken, bit for bit.

    Its state counts batches and nothing else: with any number of workers the same ones follow. torchdata's own state is
    of as many workers as wrote it.
    """

    def __init__(self, dataset: Dataset[Any], draws: Draws, *, batch_size: int, num_workers: int, seed: int) -> None:
        super().__init__(
            dataset,
            batch_size=batch_size,
            sampler=draws,
            num_workers=num_workers,
            drop_last=True,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=num_workers > 0,
            generator=torch.Generator().manual_seed(seed),  # the loader's own; leaves the global one alone
        )
        self.draws, self.epoch, self.taken, self._goes_on = draws, -1, 0, False

    def __iter__(self) -> Iterator[Any]:
        if not self._goes_on:
            self.epoch, self.taken = self.epoch + 1, 0
        self._goes_on = False
        self.draws.epoch, self.draws.begin = self.epoch, self.taken * (self.batch_size or 1)
        for batch in super().__iter__():
            self.taken += 1
            yield batch

    def state_dict(self) -> dict[str, Any]:
        return {"epoch": self.epoch, "taken": self.taken}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Raises ValueError for what another loader wrote."""
        if not {"epoch", "taken"} <= state_dict.keys():
            raise ValueError("the run that is resumed was begun by version 0.1.0: go on with that, or begin a new run")
        self.epoch, self.taken = state_dict["epoch"], state_dict["taken"]
        self._goes_on = True  # after an epoch's last batch: with nothing, before the next epoch begins
