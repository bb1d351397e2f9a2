import json
import sys
import types
from collections.abc import Iterable

import pytest
import torch
from packaging.requirements import Requirement

from worldmodel import doctor
from worldmodel.doctor import Check


def test_the_report_ends_with_the_verdict_and_the_mend():
    fine = Check(name="torch", found="2.13.0")
    absent = Check(name="mujoco", found="not installed", status="absent", mend="pip install mujoco")
    broken = Check(name="renderer", found="cannot draw", status="broken", mend="apt-get install libegl1")
    assert doctor.report([fine]).endswith("everything works")
    assert doctor.report([fine, absent]).endswith("everything works")
    assert "pip install mujoco" in doctor.report([fine, absent])
    assert doctor.report([fine, broken]).splitlines()[-1].strip() == "apt-get install libegl1"


def test_json_and_exit_status_tell_the_same_as_the_page(tmp_path, monkeypatch, capsys):
    broken = Check(name="renderer", found="cannot draw", status="broken", mend="apt-get install libegl1")
    for checks, healthy in (([Check(name="torch", found="2.13.0")], True), ([broken], False)):
        monkeypatch.setattr(doctor, "examine", lambda world, checks=checks: checks)
        assert doctor.main(["--json", str(tmp_path / "out.json")]) == (0 if healthy else 1)
        written = json.loads((tmp_path / "out.json").read_text(encoding="utf-8"))
        assert written["ok"] is healthy
        assert written["checks"][0]["name"] == checks[0].name
    assert "cannot draw" in capsys.readouterr().out


def test_this_machine_is_described():
    found = {check.name: check for check in [*doctor.check_torch(), *doctor.check_threads(), *doctor.check_attention()]}
    assert torch.__version__ in found["torch"].found
    assert set(found) == {"python", "torch", "device", "threads", "attention"}
    assert all(check.status != "broken" for check in found.values())


def test_requirements_come_from_the_build_configuration():
    groups = doctor.requirements()
    assert "torch" in {r.name for r in groups[""]}
    assert "gradio" in {r.name for r in groups["demo"]}
    assert str(next(r for r in groups["train"] if r.name == "lightning").specifier) == ">=2.6.6"


def test_an_old_or_missing_package_is_told_with_its_command():
    old = doctor.check_version(Requirement("numpy>=999"), "")
    assert (old.status, old.mend) == ("broken", "pip install 'numpy>=999'")
    assert doctor.check_version(Requirement("no-such-package>=1"), "").status == "broken"
    optional = doctor.check_version(Requirement("no-such-package>=1"), "demo")
    assert (optional.status, optional.mend) == ("absent", "only demo needs it: pip install 'no-such-package>=1'")


def test_a_package_that_crashes_the_interpreter_is_named_and_the_rest_still_tried(tmp_path, monkeypatch):
    (tmp_path / "crashes_badly.py").write_text(
        "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", encoding="utf-8"
    )
    (tmp_path / "raises_only.py").write_text("raise OSError('no such symbol')", encoding="utf-8")
    (tmp_path / "works_well.py").write_text("", encoding="utf-8")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    failures = doctor.import_failures(["raises-only", "crashes-badly", "works-well", "not-there-at-all"])
    assert failures["raises-only"] == "OSError: no such symbol"
    assert failures["crashes-badly"] == "it crashed with signal 11"
    assert "ModuleNotFoundError" in failures["not-there-at-all"]
    assert "works-well" not in failures


def test_a_renderer_that_cannot_draw_is_broken_and_says_what_to_install(monkeypatch):
    pytest.importorskip("mujoco")
    monkeypatch.setattr(doctor, "_in_a_process", lambda code, variables: ([], "it crashed with signal 11"))
    (check,) = doctor.check_renderer()
    assert check.status == "broken"
    assert "signal 11" in check.found
    assert "apt-get install libegl1" in check.mend


def test_a_check_that_fails_is_reported_instead_of_raised(monkeypatch):
    def fails() -> Iterable[Check]:
        raise KeyError("surprise")

    for name in ("check_packages", "check_renderer", "check_torchvision"):
        monkeypatch.setattr(doctor, name, list)
    monkeypatch.setattr(doctor, "check_world", lambda name: [])
    monkeypatch.setattr(doctor, "check_threads", fails)
    broken = [check for check in doctor.examine() if check.status == "broken"]
    assert [check.name for check in broken] == ["threads"]
    assert "surprise" in broken[0].found


def test_a_world_that_does_not_load_is_broken(monkeypatch):
    class World:
        @staticmethod
        def from_pretrained(name: str) -> None:
            raise ValueError(f"no world named {name!r}")

    module = types.ModuleType("worldmodel.world")
    module.World = World  # pyright: ignore[reportAttributeAccessIssue]
    monkeypatch.setitem(sys.modules, "worldmodel.world", module)
    (check,) = doctor.check_world("atlantis")
    assert check.status == "broken"
    assert "no world named 'atlantis'" in check.found
