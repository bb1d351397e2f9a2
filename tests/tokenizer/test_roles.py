"""The table of roles and the code that asks for them agree."""

from __future__ import annotations

import re
from pathlib import Path

import demo
import tokenizer
import train
import worldmodel
from tokenizer.roles import ROLES, nearest

PACKAGES = [Path(str(package.__file__)).parent for package in (tokenizer, worldmodel, train, demo)]
ASKS = re.compile(r"""(?:\.role (?:==|!=) |role_columns\(|fields_of\(|role=|ROLES = )\(?"(\w+)""")


def test_no_code_asks_for_a_role_that_is_not_in_the_table() -> None:
    asked = {
        role: path
        for package in PACKAGES
        for path in package.rglob("*.py")
        for role in ASKS.findall(path.read_text(encoding="utf-8"))
    }
    assert {"position", "terminated", "light"} <= set(asked)  # the pattern finds them
    assert {role: path for role, path in asked.items() if role not in ROLES} == {}


def test_every_role_says_what_it_does() -> None:
    for name, role in ROLES.items():
        assert len(role.does) > 10, name


def test_the_nearest_word_is_offered() -> None:
    assert nearest("veloctiy", ROLES) == "did you mean 'velocity'?"
    assert nearest("xyz", ["left", "right"]) == "choose from left, right"
    assert nearest("xyz", []) == "there are none"
