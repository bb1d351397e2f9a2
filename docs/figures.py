"""Fills the pages with what was measured: ``python -m docs.figures``.

A figure in a table is followed by a comment that says where it comes from, as in
``| 1.5 % <!-- tabletop rollout.player_error_16 .1% --> |``: a file of ``docs/measured``, a key in it, and how the value
is said. The file is what ``--json`` of a command wrote (``tabletop``: the table of its model card, which it wrote too).
"""

from __future__ import annotations

import json
import re
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[1]
MEASURED = ROOT / "docs/measured"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
_FIGURE = re.compile(r"\| [^|\n]*? ?<!-- (?P<file>[\w-]+) (?P<key>[\w.]+) (?P<form>[^>]+?) -->")


@cache
def measured(name: str) -> dict[str, float]:
    return json.loads((MEASURED / f"{name}.json").read_text(encoding="utf-8"))


def said(value: float, form: str) -> str:
    """A value by a Python format and what follows it: ``.1f dB``, ``.0%``, ``.2f``."""
    how, _, unit = form.partition(" ")
    return f"{format(value, how).replace('%', ' %')} {unit}".strip()


def filled(page: str) -> str:
    """A page whose figures are those that were measured. Raises KeyError for one that nobody measured."""

    def fill(found: re.Match[str]) -> str:
        file, key, form = found.group("file", "key", "form")
        return f"| {said(measured(file)[key], form)} <!-- {file} {key} {form} -->"

    return _FIGURE.sub(fill, page)


def main() -> None:
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        if (new := filled(text)) != text:
            path.write_text(new, encoding="utf-8")
            print(f"filled {path.relative_to(ROOT)}")


if __name__ == "__main__":
    main()
