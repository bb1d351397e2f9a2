"""Weights on disk: safetensors, which hold numbers and no code. A file is complete or absent, never half written."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
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


def refuse_larger(sizes: Mapping[str, Any], path: Path) -> None:
    """Raises ValueError where a configuration speaks of more layers or wider ones than the weights at ``path`` have.

    It is asked before anything is built, for that could take all memory there is.
    """
    _refuse_missing(path)
    try:
        with safe_open(path, "pt") as file:
            names = file.keys()  # no mapping: it cannot be iterated itself
            shapes = [file.get_slice(name).get_shape() for name in names]
    except SafetensorError as error:
        raise ValueError(f"{path} is broken ({error}): copy or export it again") from None
    most = max([len(shapes), *(side for shape in shapes for side in shape)])
    for name, size in sizes.items():
        named = name.endswith(("width", "depth", "blocks", "heads", "codes", "experts"))
        if named and isinstance(size, int) and size > most:
            raise ValueError(f"{path} is of a smaller model than {name} {size}: export both together")


def _refuse_missing(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path.name} is missing from {path.parent}: export it again")


def load_weights(module: nn.Module, path: Path) -> None:
    """Reads what ``save_weights`` wrote. Raises ValueError when the file is missing, broken, of another model, or holds
    what is no number."""
    _refuse_missing(path)
    try:
        weights = load_file(path)
    except SafetensorError as error:
        raise ValueError(f"{path} is broken ({error}): copy or export it again") from None
    wrong = [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]
    if wrong:
        raise ValueError(f"{path} holds numbers that are not finite, in {wrong[0]}: train or export it again")
    try:
        module.load_state_dict(weights)
    except RuntimeError:
        raise ValueError(
            f"{path} holds weights of another model than the configuration beside it describes: export both together, "
            "or make them again with this version"
        ) from None
