"""The floor plan, held: who may import whom, in no circle, and that no world is named outside its folder."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = ("tokenizer", "worldmodel", "train", "demo")  # each may import those before it
ROOMS = ("running", "data", "modules", "measure", "worlds")  # of train; each may import those before it, commands all
WORLDS = ROOT / "train" / "worlds"
NAMES = sorted(path.name for path in WORLDS.iterdir() if path.is_dir() and not path.name.startswith("__"))
TEXTS = (".py", ".js", ".html", ".css", ".yaml", ".json", ".md", ".toml")


def module(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module(path): path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))}


def imported(name: str, tree: ast.AST) -> Iterator[str]:
    """Our modules that a module imports, wherever it does: at its head, in a function, or for types only."""
    package = name if SOURCES[name].name == "__init__.py" else name.rpartition(".")[0]
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in SOURCES)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                inner = f"{base}.{alias.name}"
                if inner in SOURCES or base in SOURCES:
                    yield inner if inner in SOURCES else base


# Parsed as tests are collected: CPython 3.11 cannot parse while what others left open is being collected.
GRAPH = {
    name: set(imported(name, ast.parse(path.read_text(encoding="utf-8")))) - {name} for name, path in SOURCES.items()
}


@pytest.fixture
def graph() -> dict[str, set[str]]:
    return GRAPH


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """Strongly connected components of more than one module (Tarjan 1972)."""
    order: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []
    found: list[list[str]] = []

    def visit(name: str) -> None:
        order[name] = low[name] = len(order)
        stack.append(name)
        for other in sorted(graph[name]):
            if other not in order:
                visit(other)
                low[name] = min(low[name], low[other])
            elif other in stack:
                low[name] = min(low[name], order[other])
        if low[name] == order[name]:
            part = stack[stack.index(name) :]
            del stack[stack.index(name) :]
            if len(part) > 1:
                found.append(sorted(part))

    for name in sorted(graph):
        if name not in order:
            visit(name)
    return found


def between(graph: dict[str, set[str]], depth: int) -> dict[str, set[str]]:
    """The graph of packages ``depth`` names deep."""

    def of(name: str) -> str:
        return ".".join(name.split(".")[:depth])

    whole: dict[str, set[str]] = {of(name): set() for name in graph}
    for name, others in graph.items():
        whole[of(name)] |= {of(other) for other in others} - {of(name)}
    return whole


def test_a_circle_is_found_where_there_is_one() -> None:
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"a"}, "d": {"a"}}) == [["a", "b", "c"]]
    assert circles({"a": {"b", "c"}, "b": {"c"}, "c": set()}) == []


def test_imports_form_no_circle(graph: dict[str, set[str]]) -> None:
    assert circles(graph) == []


def test_the_rooms_of_train_form_no_circle(graph: dict[str, set[str]]) -> None:
    inside = {name: others for name, others in graph.items() if name.startswith("train.")}
    rooms = {name: {other for other in others if other in inside} for name, others in inside.items()}
    assert circles(between(rooms, 2)) == []


def test_packages_import_one_way(graph: dict[str, set[str]]) -> None:
    wrong = [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in sorted(others)
        if PACKAGES.index(other.split(".")[0]) > PACKAGES.index(name.split(".")[0])
    ]
    assert wrong == []


def room(name: str) -> int:
    part = [*name.split("."), ""][1]
    return ROOMS.index(part) if part in ROOMS else len(ROOMS)


def test_the_rooms_of_train_import_one_way(graph: dict[str, set[str]]) -> None:
    wrong = [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in sorted(others)
        if name.startswith("train.") and other.startswith("train.") and room(other) > room(name)
    ]
    assert wrong == []


def test_a_world_of_ours_imports_no_other(graph: dict[str, set[str]]) -> None:
    wrong = [
        f"{name} imports {other}"
        for name, others in graph.items()
        for other in sorted(others)
        for world in NAMES
        if other.startswith(f"train.worlds.{world}") and not name.startswith(f"train.worlds.{world}")
    ]
    assert wrong == []


def test_there_are_worlds_to_look_for() -> None:
    assert "tabletop" in NAMES
    assert len(NAMES) >= 3


@pytest.mark.parametrize("package", PACKAGES)
def test_no_world_is_named_outside_its_folder(package: str) -> None:
    kept = (*(WORLDS / name for name in NAMES), ROOT / "worldmodel" / "worlds")
    named = []
    for path in sorted((ROOT / package).rglob("*")):
        if path.suffix not in TEXTS or any(folder in path.parents for folder in kept):
            continue
        if any(name in str(path.relative_to(ROOT)).lower() for name in NAMES):
            named.append(str(path.relative_to(ROOT)))
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if any(name in line.lower() for name in NAMES):
                named.append(f"{path.relative_to(ROOT)}:{number}: {line.strip()[:80]}")
    assert named == []


def test_the_rooms_that_there_are_are_named() -> None:
    text = (ROOT / "docs/how_it_works.md").read_text(encoding="utf-8")
    tree = text.split("## What lies where")[1].split("```")[1]
    named = {word for word in tree.split() if word.endswith(".py")}
    there = {path.name for path in SOURCES.values()}
    assert named <= there, named - there
    for package in ("tokenizer", "worldmodel"):
        files = {path.name for path in (ROOT / package).rglob("*.py")} - {"__init__.py"}
        assert files <= named, files - named
