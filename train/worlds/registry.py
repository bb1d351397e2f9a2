"""A world's recipe by name: one of our own, one that a package registers, ``my_package.my_world:RECIPE``, or the YAML
file of a Gymnasium environment (``gym_world.py``).

Every package in this folder is a world of our own, named as its folder is. Others register under the entry-point
group ``worldmodel.worlds``. Nothing is imported before it is asked for.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from importlib import metadata
from pathlib import Path
from typing import Any

from train.worlds.contract import Recipe

GROUP = "worldmodel.worlds"


def own_names() -> list[str]:
    return [found.name for found in pkgutil.iter_modules([str(Path(__file__).parent)]) if found.ispkg]


def names() -> list[str]:
    """Worlds that can be asked for by name, our own first."""
    ours = own_names()
    return [*ours, *sorted({point.name for point in metadata.entry_points(group=GROUP)} - set(ours))]


def recipe(name: str) -> Recipe:
    """Raises ValueError for an unknown name or one that does not lead to a recipe, ImportError for a simulator that is
    not installed."""
    if name.endswith(".yaml"):
        from train.worlds.gym_world import GymWorld

        return GymWorld.load(name).recipe()
    if ":" in name:
        return _checked(name, *name.split(":", 1))
    if name in own_names():
        return _checked(name, f"{__package__}.{name}", "RECIPE")
    for point in metadata.entry_points(group=GROUP):
        if point.name == name:
            return _checked(name, point.module, point.attr or "RECIPE")
    known = names()
    near = difflib.get_close_matches(name, known, 1)
    meant = f"did you mean {near[0]}? There" if near else "there"
    raise ValueError(
        f"no world is called {name!r}: {meant} are {', '.join(known)}, and any other as my_package.my_world:RECIPE"
    )


def of_schema(schema: Any) -> str | None:
    """The name of the world whose schema this is, found by the schema's name, or None."""
    if schema.name not in names():
        return None
    try:
        return schema.name if recipe(schema.name).schema == schema else None
    except (ImportError, ValueError):
        return None


def _checked(name: str, module: str, attribute: str) -> Recipe:
    try:
        found: Any = importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module}.".startswith(f"{error.name}."):
            raise
        raise ValueError(
            f"the world {name!r} asks for the module {module}, which is not there: install it, or put its folder on "
            "PYTHONPATH"
        ) from None
    try:
        for part in attribute.split("."):
            found = getattr(found, part)
    except AttributeError:
        raise ValueError(f"{module} has no {attribute}: name the world as {module}:RECIPE") from None
    if not isinstance(found, Recipe):
        raise ValueError(f"{module}:{attribute} is a {type(found).__name__}: a world is a train.worlds.contract.Recipe")
    return found
