"""`python -m worldmodel.doctor [--json FILE]`: what this machine has, what will be used, what is broken and its mend.

Whatever could take the interpreter down with it (a renderer, a package built for another torch) is tried in a
process of its own. Parts that are not installed are no fault; parts that are installed and fail are.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import time
import tomllib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement

PROJECT = "worldmodel-stream"
ROOT = Path(__file__).parent.parent
PATIENCE = 120  # seconds a process may take; cold imports are slow


@dataclass(frozen=True, kw_only=True)
class Check:
    """One line of the report. ``mend`` says what to do, where there is something to do."""

    name: str
    found: str
    status: Literal["ok", "absent", "broken"] = "ok"
    mend: str = ""


def examine(world: str | None = None) -> list[Check]:
    """Runs every check, with the default world if none is named. A check that itself fails is a broken one."""
    jobs: list[tuple[str, Callable[[], Iterable[Check]]]] = [
        ("python and torch", check_torch),
        ("threads", check_threads),
        ("attention", check_attention),
        ("packages", check_packages),
        ("torchvision", check_torchvision),
        ("renderer", check_renderer),
        ("world", lambda: check_world(world)),
    ]
    checks: list[Check] = []
    for name, job in jobs:
        try:
            checks += job()
        except Exception as error:
            checks.append(_broken(name, _words(error), "this check itself failed: please report it with this line"))
    return checks


def check_torch() -> Iterable[Check]:
    import torch

    yield Check(name="python", found=f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    build = f"CUDA {torch.version.cuda}" if torch.version.cuda else "CPU build"
    yield Check(name="torch", found=f"{torch.__version__}, {build}")
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        yield Check(name="device", found=f"cuda: {card.name}, {card.total_memory / 2**30:.0f} GiB")
    else:
        load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
        idle = shutil.which("nvidia-smi") and not torch.version.cuda
        yield Check(
            name="device",
            found=f"cpu: {os.cpu_count()} cores{load}",
            status="absent" if idle else "ok",
            mend="an NVIDIA card is here, but this torch is a CPU build: install the CUDA one to train on it"
            if idle
            else "",
        )


def check_threads() -> Iterable[Check]:
    from worldmodel.threads import choose_threads

    choice = choose_threads()
    yield Check(name="threads", found=f"{choice.count} ({choice.reason})")


def check_attention() -> Iterable[Check]:
    import torch

    from worldmodel.attention import choose_backend

    device, dtype = ("cuda", torch.bfloat16) if torch.cuda.is_available() else ("cpu", torch.float32)
    name, reason = choose_backend("auto", torch.device(device), dtype)
    yield Check(name="attention", found=f"{name} ({reason})")


def check_packages() -> Iterable[Check]:
    """Versions against the minimum of the build configuration, then imports, a process for each extra."""
    groups = requirements()
    reports: dict[str, list[Check]] = {}
    importable: dict[str, list[str]] = {}
    for extra, wanted in groups.items():
        reports[extra], importable[extra] = [], []
        for requirement in wanted:
            check = check_version(requirement, extra)
            if check.status == "ok":  # an older version is not even imported: some had malicious uploads
                importable[extra].append(requirement.name)
            else:
                reports[extra].append(check)
    with ThreadPoolExecutor(2) as pool:
        failures = dict(zip(groups, pool.map(import_failures, importable.values())))
    for extra in groups:
        title = f"packages of {extra}" if extra else "packages"
        known = [n for n in importable[extra] if n not in failures[extra]]
        if known:
            yield Check(name=title, found=", ".join(f"{name} {metadata.version(name)}" for name in known))
        for name, failure in failures[extra].items():
            mend = f"install it again: pip install --force-reinstall --no-deps {name}=={metadata.version(name)}"
            yield _broken(name, f"{metadata.version(name)} does not import: {failure}", mend)
        yield from reports[extra]


def requirements() -> dict[str, list[Requirement]]:
    """What the project asks for, by extra ("" is always needed), from its metadata or else its source."""
    try:
        lines = metadata.requires(PROJECT) or []
    except metadata.PackageNotFoundError:
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        lines = list(project["dependencies"])
        for extra, more in project["optional-dependencies"].items():
            lines += [f"{line.split(';')[0]}; extra == '{extra}'" for line in more]
    groups: dict[str, list[Requirement]] = {"": [], "demo": [], "train": [], "worlds": []}
    for line in lines:
        requirement = Requirement(line)
        extra = re.search(r"extra == ['\"](\w+)['\"]", str(requirement.marker or ""))
        if (group := extra[1] if extra else "") in groups:
            groups[group].append(requirement)
    return groups


def check_version(requirement: Requirement, extra: str) -> Check:
    name, wanted = requirement.name, f"{requirement.name}{requirement.specifier}"
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        if extra:
            return Check(
                name=name, found="not installed", status="absent", mend=f"only {extra} needs it: pip install '{wanted}'"
            )
        return _broken(name, "not installed", f"pip install '{wanted}'")
    if not requirement.specifier.contains(version, prereleases=True):
        return _broken(name, f"{version}, but {requirement.specifier} is needed", f"pip install '{wanted}'")
    return Check(name=name, found=version)


def import_failures(names: list[str]) -> dict[str, str]:
    """Imports the packages in a process of their own; what went wrong by name."""
    failures: dict[str, str] = {}
    remaining = list(names)
    while remaining:
        modules = {name: name.replace("-", "_").lower() for name in remaining}
        code = (
            "import importlib, json, sys\n"
            f"for name, module in {modules!r}.items():\n"
            "    print(json.dumps([name, None]), flush=True)\n"
            "    try: importlib.import_module(module)\n"
            "    except BaseException as e:\n"
            "        print(json.dumps([name, f'{type(e).__name__}: {e}'[:300]]), flush=True)\n"
        )
        lines, ended = _in_a_process(code)
        reported = [json.loads(line) for line in lines if line.startswith("[")]
        failures |= {name: failure for name, failure in reported if failure}
        if ended == "":
            break
        if not reported:
            return failures | dict.fromkeys(remaining, ended)
        crashed = reported[-1][0]  # what was being imported when the process died; go on behind it
        failures[crashed] = ended
        remaining = remaining[remaining.index(crashed) + 1 :]
    return failures


def check_torchvision() -> Iterable[Check]:
    try:
        version = metadata.version("torchvision")
    except metadata.PackageNotFoundError:
        return
    failure = import_failures(["torchvision"]).get("torchvision")
    if failure:
        mend = "nothing here needs it, and beside this torch it breaks others' imports: pip uninstall torchvision"
        yield _broken("torchvision", f"{version} does not fit this torch: {failure}", mend)


def check_renderer() -> Iterable[Check]:
    """A tiny picture with MuJoCo, which recording needs: with MUJOCO_GL if set, else with whatever works."""
    try:
        version = metadata.version("mujoco")
    except metadata.PackageNotFoundError:
        mend = "only recording needs MuJoCo: pip install 'worldmodel-stream[worlds]'"
        yield Check(name="renderer", found="none", status="absent", mend=mend)
        return
    code = (
        "import mujoco, time\n"
        'scene = \'<geom size=".1" rgba="1 0 0 1"/><light pos="0 0 2"/>\'\n'
        "model = mujoco.MjModel.from_xml_string(f'<mujoco><worldbody>{scene}</worldbody></mujoco>')\n"
        "data = mujoco.MjData(model)\n"
        "mujoco.mj_forward(model, data)\n"
        "with mujoco.Renderer(model, 64, 64) as renderer:\n"
        "    renderer.update_scene(data)\n"
        "    renderer.render()\n"
        "    start = time.perf_counter()\n"
        "    assert renderer.render().max() > 0, 'the picture is black'\n"
        "    print(f'{1000 * (time.perf_counter() - start):.1f}')\n"
    )
    given = os.environ.get("MUJOCO_GL")
    candidates = [given] if given else ["egl", "osmesa"] if sys.platform == "linux" else [""]
    failures = []
    for candidate in candidates:
        variables = {"MUJOCO_GL": candidate} if candidate else {}
        if candidate == "osmesa":
            variables["PYOPENGL_PLATFORM"] = "osmesa"
        lines, ended = _in_a_process(code, variables)
        if ended == "" and lines:
            how = candidate or "the system's OpenGL"
            yield Check(name="renderer", found=f"MuJoCo {version} draws with {how}, 64x64 in {lines[-1]} ms")
            return
        failures.append(f"{candidate}: {ended}")
    mend = "apt-get install libegl1 libegl-mesa0 libgl1-mesa-dri, or libosmesa6 and MUJOCO_GL=osmesa"
    yield _broken("renderer", f"MuJoCo {version} cannot draw ({'; '.join(failures)})", mend)


def check_world(name: str | None) -> Iterable[Check]:
    """Loads a world, starts it and takes one step."""
    from worldmodel.storage import default_world
    from worldmodel.world import World

    name = name or default_world()
    try:
        start = time.perf_counter()
        world = World.from_pretrained(name)
        loaded = time.perf_counter() - start
        rollout = world.start(seed=0)
        action = world.actions.idle()
        rollout.step(action)
        start = time.perf_counter()
        rollout.step(action)
        spent = time.perf_counter() - start
    except Exception as error:
        mend = "install the project again, or name a world's folder with --world"
        yield _broken(f"world {name}", f"does not run: {_words(error)}", mend)
        return
    yield Check(name=f"world {name}", found=f"loads in {loaded:.1f} s, a step takes {1000 * spent:.0f} ms")


def _in_a_process(code: str, variables: dict[str, str] | None = None) -> tuple[list[str], str]:
    """Lines of standard output, and "" or how the process failed."""
    environment = os.environ | {"MPLBACKEND": "agg"} | (variables or {})
    try:
        ended = subprocess.run(
            [sys.executable, "-c", code],
            env=environment,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=PATIENCE,
        )
    except subprocess.TimeoutExpired as late:
        printed = late.stdout or b""
        text = printed.decode(errors="replace") if isinstance(printed, bytes) else printed
        return text.splitlines(), f"no answer within {PATIENCE} s"
    if ended.returncode < 0:
        return ended.stdout.splitlines(), f"it crashed with signal {-ended.returncode}"
    if ended.returncode:
        return ended.stdout.splitlines(), (ended.stderr.strip().splitlines() or ["it failed without a word"])[-1]
    return ended.stdout.splitlines(), ""


def _broken(name: str, found: str, mend: str) -> Check:
    return Check(name=name, found=found, status="broken", mend=mend)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def report(checks: list[Check]) -> str:
    """The checks as a page of text; it ends with the verdict."""
    width = max(len(check.name) for check in checks)
    signs = {"ok": " ", "absent": "-", "broken": "!"}
    lines = [f"{signs[c.status]} {c.name:<{width}}  {c.found}" for c in checks]
    absent = [c for c in checks if c.status == "absent"]
    broken = [c for c in checks if c.status == "broken"]
    if absent:
        lines += ["", "could be had:", *(f"  {c.name}: {c.mend}" for c in absent)]
    if broken:
        lines += ["", "broken:", *(f"  {c.name}: {c.found}\n      {c.mend}" for c in broken)]
    else:
        lines += ["", "everything works"]
    return "\n".join(lines)


def main(args: list[str] | None = None) -> int:
    """Exit status 1 if anything is broken."""
    parser = argparse.ArgumentParser(prog="python -m worldmodel.doctor", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the checks to FILE")
    parser.add_argument("--world", help="name or folder of the world to try; the default world if left out")
    options = parser.parse_args(args)
    checks = examine(options.world)
    healthy = all(check.status != "broken" for check in checks)
    print(report(checks))
    if options.json:
        options.json.write_text(
            json.dumps({"ok": healthy, "checks": [asdict(c) for c in checks]}, indent=1) + "\n", encoding="utf-8"
        )
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
