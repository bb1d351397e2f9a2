"""The model card that travels with the weights: what they are, how they came about, how good they are."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from train.worlds.contract import Stage


def hours(work: Path, name: str) -> float:
    """Training hours that a run's metrics tell of."""
    path = work / "runs" / name.replace(" ", "_") / "metrics.jsonl"
    return json.loads(path.read_text(encoding="utf-8").splitlines()[-1])["hours"] if path.is_file() else 0.0


def model_card(about: str, plan: Sequence[Stage], command: str, figures: Mapping[str, Any], work: Path) -> str:
    """``about`` the world, in Markdown; ``figures`` of the evaluation that is the plan's last stage."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    made = [
        f"* {stage.name}: {stage.about}" + (f", {spent:.2f} h" if (spent := hours(work, stage.name)) else "")
        for stage in plan
        if stage.about
    ]
    rows = [
        f"| {part}.{key} | {value:.4g} |"
        for part, values in figures.items()
        if isinstance(values, dict)
        for key, value in values.items()
        if isinstance(value, int | float) and not isinstance(value, bool)
    ]
    verdict = [str(line) for line in figures.get("verdict", ())]
    lines = [
        about.rstrip(),
        "",
        *([*verdict, ""] if verdict else []),
        "## How it was made",
        "",
        f"`{command}` on {device}, that is:",
        "",
        *made,
        "",
        "## Held-out figures",
        "",
        f"`python -m {' '.join(plan[-1].command)}`",
        "",
        "| key | value |",
        "|---|---|",
        *rows,
        "",
    ]
    return "\n".join(lines)
