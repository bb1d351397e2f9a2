"""The page in a real browser: Debian's Chromium, driven by playwright-core where npm has installed it.

``npm i playwright-core axe-core`` in a folder whose ``node_modules`` the variable ``NODE_MODULES`` names; without it,
that of the working folder is taken.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

MODULES = Path(os.environ.get("NODE_MODULES", "node_modules")).resolve()
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
pytestmark = pytest.mark.skipif(
    not (shutil.which("node") and CHROMIUM and (MODULES / "playwright-core").is_dir()),
    reason="needs node, chromium, and playwright-core in NODE_MODULES",
)


@pytest.fixture
def address() -> Iterator[str]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    url = f"http://127.0.0.1:{port}/"
    with subprocess.Popen([sys.executable, "-m", "demo", "--port", str(port)], stdout=subprocess.DEVNULL) as demo:
        try:
            for _ in range(240):
                time.sleep(0.5)
                try:
                    urlopen(url, timeout=5).close()
                    break
                except OSError:
                    assert demo.poll() is None, "the demo has ended"
            yield url
        finally:
            demo.terminate()


def test_people_play_drag_tell_record_and_turn_their_phones(address: str):
    ran = subprocess.run(
        ["node", str(Path(__file__).with_name("page.mjs")), address],
        env={**os.environ, "NODE_MODULES": str(MODULES), "CHROMIUM": str(CHROMIUM)},
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=240,
    )
    assert ran.returncode == 0, ran.stderr
    seen = json.loads(ran.stdout)
    assert seen["errors"] == []
    assert all(seen[name] for name in ("plays", "drags", "movesByKeys", "records", "remembersTheme"))
    assert not seen["refused"]
    assert not any(seen["cut"].values()), seen["cut"]
    assert not any(seen["axe"].values()), seen["axe"]
