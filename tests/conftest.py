"""The shapes in the packages' signatures are checked while tests run, and only then."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import ModuleType
from typing import Any, get_args

from beartype import beartype
from jaxtyping import AbstractArray, install_import_hook


def speaks_of_shapes(hint: Any) -> bool:
    return (isinstance(hint, type) and issubclass(hint, AbstractArray)) or any(map(speaks_of_shapes, get_args(hint)))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Checks the arguments and the result whose hints speak of shapes; plain types are pyright's to check."""
    hints = {name: hint for name, hint in function.__annotations__.items() if speaks_of_shapes(hint)}
    function.__annotations__ = hints
    return beartype(function) if hints else function


# The hook asks for the checker by its dotted name.
checker = ModuleType("shape_checks")
checker.checked = checked  # type: ignore[attr-defined]
sys.modules[checker.__name__] = checker
install_import_hook(["tokenizer", "worldmodel"], "shape_checks.checked")
