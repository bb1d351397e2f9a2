"""Weights on disk: safetensors, which hold numbers and no code. A file is complete or absent, never half written."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn


def save_weights(module: nn.Module, path: Path, *, half: bool = False) -> None:
    """Writes a module's weights, by way of a temporary file; with ``half``, as float16, which reading turns back."""
    partial = path.with_suffix(".part")
    weights = {name: value.contiguous().cpu() for name, value in module.state_dict().items()}
    if half:
        weights = {name: value.half() if value.is_floating_point() else value for name, value in weights.items()}
    save_file(weights, partial)
    partial.replace(path)


def load_weights(module: nn.Module, path: Path) -> None:
    """Reads what ``save_weights`` wrote. Raises ValueError when the file is missing, broken or of another model."""
    if not path.is_file():
        raise ValueError(f"{path.name} is missing from {path.parent}: export it again")
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is broken ({error}): copy or export it again") from None
    try:
        module.load_state_dict(weights)
    except RuntimeError:
        raise ValueError(
            f"{path} holds weights of another model than the configuration beside it describes: export both together, "
            "or make them again with this version"
        ) from None
