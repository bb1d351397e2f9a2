"""Where this project keeps what can be made again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path


def cache_folder() -> Path:
    """``$XDG_CACHE_HOME/worldmodel``, else ``~/.cache/worldmodel``, else one in the temporary folder."""
    wished = os.environ.get("XDG_CACHE_HOME")
    folder = (Path(wished) if wished else Path.home() / ".cache") / "worldmodel"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / "worldmodel"
    return folder
