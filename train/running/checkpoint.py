"""What a run has kept, read as data: a Lightning checkpoint's configuration and weights."""

from __future__ import annotations

import pickle
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A Lightning checkpoint, read as data. Raises ValueError when it is missing or broken."""
    if not Path(path).is_file():
        raise ValueError(f"no checkpoint at {path}: train first, or name the run's last.ckpt")
    try:
        with warnings.catch_warnings():  # of pickles that others wrote
            warnings.simplefilter("ignore")
            saved = torch.load(path, map_location="cpu", weights_only=True)
    except (RuntimeError, EOFError, OSError, pickle.UnpicklingError, UnicodeDecodeError) as error:
        kind = type(error).__name__
        raise ValueError(f"{path} is broken ({kind}): resume the run, or take another checkpoint") from None
    if not isinstance(saved, dict) or "state_dict" not in saved:
        raise ValueError(f"{path} is no checkpoint of a run of ours: name the run's last.ckpt")
    return saved


def take_weights(module: nn.Module, checkpoint: dict[str, Any], prefix: str) -> None:
    """Loads the weights that a Lightning module kept under ``prefix``. Raises ValueError for another network's."""
    weights = {k.removeprefix(prefix): v for k, v in checkpoint["state_dict"].items() if k.startswith(prefix)}
    try:
        module.load_state_dict(weights)
    except RuntimeError as error:
        first = str(error).split("\n\t")[-1].strip()
        raise ValueError(f"the checkpoint's weights are of another version or kind ({first}): train it again") from None
