"""How far a long piece of work is."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(*args: Any, **options: Any) -> tqdm[Any]:
    """``tqdm`` that does not flood a log file: redrawn ten times a second in a terminal, else every ten seconds."""
    return tqdm(*args, mininterval=0.1 if sys.stderr.isatty() else 10.0, **options)
