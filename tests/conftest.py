"""The shapes in the packages' signatures are checked while tests run, and only then.

Signatures say them as jaxtyping does, ``Float[Tensor, "B T F"]``. Functions that answer a wrong shape with a sentence
of their own take a plain ``Tensor``.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any, get_args

import jaxtyping
import pytest
from beartype import beartype


def speaks_of_shapes(hint: Any) -> bool:
    array = isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray)
    return array or any(map(speaks_of_shapes, get_args(hint)))


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Checks the arguments and the result whose hints speak of shapes; plain types are pyright's to check."""
    hints = {name: hint for name, hint in function.__annotations__.items() if speaks_of_shapes(hint)}
    function.__annotations__ = hints
    return beartype(function) if hints else function


def jaxtyped(*, typechecker: Any, with_shapes: Callable[..., Any] = jaxtyping.jaxtyped) -> Callable[[Any], Any]:
    """jaxtyping's decorator, for what speaks of shapes alone: the rest stays as fast as it is."""

    def decorate(thing: Any) -> Any:
        hints = getattr(thing, "__annotations__", {}).values()  # as they are written
        return with_shapes(thing, typechecker=typechecker) if any("[Tensor, " in str(hint) for hint in hints) else thing

    return decorate


jaxtyping.jaxtyped = jaxtyped
# The hook asks for the checker by its dotted name.
checker = ModuleType("shape_checks")
checker.checked = checked  # type: ignore[attr-defined]
sys.modules[checker.__name__] = checker
jaxtyping.install_import_hook(["tokenizer", "worldmodel"], "shape_checks.checked")


@pytest.fixture
def pond(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The world of a package that is not ours, for this process and those that it starts."""
    outside = str(Path(__file__).parent / "outside_world")
    monkeypatch.syspath_prepend(outside)
    monkeypatch.setenv("PYTHONPATH", outside, prepend=":")
    yield __import__("pond")
    sys.modules.pop("pond")
