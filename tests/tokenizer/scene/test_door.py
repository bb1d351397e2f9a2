"""From outside, the scene is entered through its door alone, and only where it is built or read."""

from __future__ import annotations

import ast
from pathlib import Path

import tokenizer
import worldmodel

HOUSE = Path(str(tokenizer.__file__)).parent.parent


def _imports(path: Path) -> set[str]:
    """Dotted names of the modules that a file imports from."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{name.name}" for name in node.names)}
        elif isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
    return found


def _rooms(*packages: str) -> list[Path]:
    scene = HOUSE / "tokenizer" / "scene"
    return [path for package in packages for path in (HOUSE / package).rglob("*.py") if scene not in path.parents]


def test_nothing_outside_reaches_behind_the_scenes_door() -> None:
    behind = {f"tokenizer.scene.{path.stem}" for path in (HOUSE / "tokenizer" / "scene").glob("[!_]*.py")}
    for path in _rooms("tokenizer", "worldmodel", "train", "demo"):
        assert not _imports(path) & behind, path


def test_below_training_only_builders_know_of_the_scene() -> None:
    knowing = {str(p.relative_to(HOUSE)) for p in _rooms("tokenizer", "worldmodel") if "tokenizer.scene" in _imports(p)}
    builders = {"transformer", "outcome", "upsampler"}
    assert knowing <= {"tokenizer/video_autoencoder.py", *(f"worldmodel/{name}.py" for name in builders)}
    assert Path(str(worldmodel.__file__)).parent.parent == HOUSE
