"""What the pages say is so: figures are those that were measured, links lead somewhere, snippets run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from docs.figures import PAGES, filled

ROOT = Path(__file__).parents[1]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_a_pages_figures_are_those_that_were_measured(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    assert filled(text) == text, "run python -m docs.figures"


def test_a_figure_that_is_changed_by_hand_is_found() -> None:
    row = "| edits | 99 % <!-- tabletop edit.obeyed .0% --> | 95 % |"
    assert filled(row) == row.replace("99 %", "100 %")
    with pytest.raises(KeyError, match="nothing"):
        filled("| x | 1 <!-- tabletop nothing.at_all .0f --> |")


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_links_lead_to_files_that_are_there(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8"))
    assert [link for link in links if not (page.parent / link).exists()] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


@pytest.mark.parametrize(("page", "beginning"), [("README.md", "from worldmodel"), ("docs/use.md", "import torch")])
def test_snippets_run(page: str, beginning: str, capsys: pytest.CaptureFixture[str]) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)
    (block,) = [block for block in blocks if block.startswith(beginning)]
    exec(compile(block, page, "exec"), {})
    assert "red" in capsys.readouterr().out  # it tells of the moment
