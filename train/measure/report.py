"""An evaluation as a page to look at: figures as PNG, tied together with the numbers by ``index.html``."""

from __future__ import annotations

import html
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")  # draws without a display
import matplotlib.pyplot as plt
from torch import Tensor

from train.measure.bars import Verdict
from train.measure.edits import STEPS, EditResult
from train.measure.foreground import MARKS
from train.measure.measurement import Numbers, Pictures

SHOWN_STEPS = (0, 1, 2, 4, 8, 12, 16, 24, 32, 48, 64)
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .15rem .8rem; text-align: left }
tr:nth-child(even) { background: #f4f4f2 } img { max-width: 100%; display: block; margin: .5rem 0 }
.verdict { margin: .3rem 0 } .verdict:first-of-type { font-size: 1.2em; font-weight: 600 }
.met { color: #17722e } .missed { color: #b3261e } code { background: #f4f4f2; padding: 0 .3rem }
"""


def grid(path: Path, rows: Sequence[tuple[str, Sequence[Tensor]]], titles: Sequence[str], size: float = 1.1) -> None:
    """Pictures uint8 (H, W, 3) in named rows under column titles."""
    figure, axes = plt.subplots(
        len(rows), len(titles), figsize=(size * len(titles) + 1, size * len(rows) + 0.3), squeeze=False
    )
    for line, (name, pictures) in zip(axes, rows, strict=True):
        for axis in line:
            axis.set_xticks([])
            axis.set_yticks([])
            axis.set_frame_on(False)
        for axis, picture in zip(line, pictures, strict=False):
            axis.imshow(picture.numpy(), interpolation="nearest")
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize=8)
    for axis, title in zip(axes[0], titles, strict=True):
        axis.set_title(title, fontsize=8)
    figure.tight_layout(pad=0.15)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def strips(path: Path, pictures: Pictures, ours: str, most: int = 5) -> None:
    """Real above imagined, at the same steps, for some episodes."""
    longest = sorted(range(len(pictures.real)), key=lambda i: -len(pictures.real[i]))[:most]
    if not longest:
        return
    times = [t for t in SHOWN_STEPS if t < len(pictures.real[longest[0]])]
    rows = [
        (name, [of[i][t] for t in times if t < len(of[i])])
        for i in longest
        for name, of in (("real", pictures.real), (ours, pictures.imagined))
    ]
    grid(path, rows, [f"step {t}" for t in times])


def curves(path: Path, lines: dict[str, Sequence[float | None] | None], ylabel: str) -> None:
    """Values by step; what was not measured is left out."""
    figure, axis = plt.subplots(figsize=(7, 3.2))
    for name, values in lines.items():
        if values is not None:
            axis.plot(range(1, len(values) + 1), [float("nan") if v is None else v for v in values], label=name)
    axis.set_xlabel("steps of free running")
    axis.set_ylabel(ylabel)
    axis.grid(alpha=0.3)
    axis.legend(frameon=False, fontsize=8)
    figure.tight_layout()
    figure.savefig(path, dpi=110)
    plt.close(figure)


def edit_strips(path: Path, result: EditResult, most: int = 8) -> None:
    """Before, truth, and what was imagined; those that failed come first."""
    order = sorted(range(len(result.cases)), key=lambda i: (result.verdicts[i].obeyed, result.verdicts[i].undisturbed))
    failed = [i for i in order if not (result.verdicts[i].obeyed and result.verdicts[i].undisturbed)]
    passed = [i for i in order if i not in failed]
    half = max(most // 2, most - len(passed))
    chosen = (failed[:half] + passed)[:most]
    rows = []
    for i in chosen:
        case, verdict = result.cases[i], result.verdicts[i]
        said = f"{case.name}: {'obeyed' if verdict.obeyed else 'not obeyed'}" + (
            "" if verdict.undisturbed else ",\nothers disturbed"
        )
        rows.append((said, [case.before, case.truth[-1], *result.frames[i]]))
    grid(path, rows, ["before", "truth", *(f"imagined, step {t + 1}" for t in range(STEPS))], size=1.5)


Table = tuple[list[str], list[tuple[str, list[float | None]]]]
WHERE = {"": "whole picture", "foreground_": "foreground pixels", "moving_": "moving pixels"}
MAKERS = {"": "imagined", "_median": "median picture", "_copy_last": "first frame held", "_ceiling": "tokenizer"}


def compared(numbers: Numbers) -> dict[str, Table]:
    """PSNR by title, head and rows: the world's beside what a picture without anything in it and one that stands still
    get, and the tokenizer."""
    tables: dict[str, Table] = {}
    tokenizer, rollout = numbers.get("tokenizer", {}), numbers.get("rollout", {})
    if "psnr_db_median" in tokenizer:
        rows = [
            (name, [tokenizer.get(f"{region}psnr_db{maker}") for region in WHERE])
            for maker, name in (MAKERS | {"": "decoded", "_copy_last": "frame before held"}).items()
            if maker != "_ceiling"
        ]
        tables["Tokenizer, dB"] = ["whole", "foreground", "moving"], rows
    for region, where in WHERE.items():
        series = {name: rollout.get(f"{region}psnr{maker}_by_step_db") for maker, name in MAKERS.items()}
        known = {name: values for name, values in series.items() if values is not None}
        marks = [mark for mark in MARKS if known and mark <= len(known["imagined"])]
        if marks:
            rows = [(name, [values[mark - 1] for mark in marks]) for name, values in known.items()]
            tables[f"Rollout, {where}, dB"] = [f"step {mark}" for mark in marks], rows
    return tables


def write(
    folder: Path,
    numbers: Numbers,
    bars: Sequence[Verdict],
    *,
    rebuilt: Pictures | None,
    imagined: Pictures | None,
    edits: EditResult | None,
    upsampled: Pictures | None,
) -> Path:
    """Writes figures and page. Returns the page's path."""
    folder.mkdir(parents=True, exist_ok=True)
    figures: list[tuple[str, str]] = []
    if imagined is not None:
        strips(folder / "rollouts.png", imagined, "imagined")
        figures.append(("rollouts.png", "Rollouts on the true actions: real above imagined"))
        rollout = numbers["rollout"]
        for region, where in WHERE.items():
            psnr = {name: rollout.get(f"{region}psnr{maker}_by_step_db") for maker, name in MAKERS.items()}
            curves(folder / f"{region}psnr.png", psnr, "PSNR, dB")
            figures.append((f"{region}psnr.png", f"PSNR against the real frames over the horizon, {where}"))
        if rollout.get("player_error_by_step"):
            error = {
                f"{who}{held}": rollout[f"{who}_error_by_step{suffix}"]
                for who in ("player", "others")
                for held, suffix in (("", ""), (", first state held", "_copy_last"))
                if f"{who}_error_by_step" in rollout
            }
            curves(folder / "position.png", error, "error, share of the table's width")
            figures.append(("position.png", "Position error over the horizon"))
    if edits is not None:
        edit_strips(folder / "edits.png", edits)
        figures.append(("edits.png", "Edits: a body is moved by writing the state (failures first)"))
    if rebuilt is not None:
        strips(folder / "tokenizer.png", rebuilt, "decoded", most=4)
        figures.append(("tokenizer.png", "Tokenizer: real above decoded"))
    if upsampled is not None:
        strips(folder / "upsampler.png", upsampled, "upsampled", most=3)
        figures.append(("upsampler.png", "Upsampler: recorded above upsampled from decoded frames"))
    page = folder / "index.html"
    page.write_text(_page(numbers, bars, figures), encoding="utf-8")
    return page


def _page(numbers: Numbers, bars: Sequence[Verdict], figures: list[tuple[str, str]]) -> str:
    verdict = {
        True: '<td class="met">met</td>',
        False: '<td class="missed">missed</td>',
        None: "<td>nothing to count</td>",
    }
    held = "".join(
        f"<tr><td><code>{html.escape(bar.key)}</code></td><td>{bar.value}</td><td>{html.escape(bar.bar)}</td>"
        f"{verdict[bar.met]}</tr>"
        for bar in bars
    )
    shown = "".join(
        f'<h2>{html.escape(said)}</h2><img src="{name}" alt="{html.escape(said)}">' for name, said in figures
    )
    parts = "".join(
        f"<h3>{name}</h3><table>{_rows(part)}</table>" for name, part in numbers.items() if isinstance(part, dict)
    )
    said = "".join(f"<p class=verdict>{html.escape(sentence)}</p>" for sentence in numbers.get("verdict", ()))
    tables = "".join(_table(title, *table) for title, table in compared(numbers).items())
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Evaluation</title><style>{STYLE}</style>"
        f"<h1>Evaluation of {html.escape(str(numbers['about']['world']))}</h1>{said}{tables}"
        f"<table><tr><th>measure<th>value<th>bar<th></tr>{held}</table>{shown}<h2>All numbers</h2>{parts}</html>\n"
    )


def _table(title: str, head: list[str], rows: list[tuple[str, list[float | None]]]) -> str:
    above = "".join(f"<th>{html.escape(name)}" for name in (title, *head))
    below = "".join(f"<tr><td>{name}{''.join(f'<td>{decibels(value)}' for value in values)}" for name, values in rows)
    return f"<table><tr>{above}{below}</table>"


def decibels(value: float | None) -> str:
    return readable(None if value is None else round(value, 1))


def _rows(part: dict[str, Any]) -> str:
    return "".join(
        f"<tr><td><code>{html.escape(key)}</code></td><td>{html.escape(readable(value))}</td></tr>"
        for key, value in part.items()
    )


def readable(value: Any) -> str:
    """A number, list or dict in a few characters; of a long list some entries by step."""
    match value:
        case None:
            return "–"
        case float():
            return f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
        case list() if len(value) > 8:
            return ", ".join(f"{t}: {readable(value[t - 1])}" for t in SHOWN_STEPS if 0 < t <= len(value))
        case list():
            return ", ".join(map(readable, value))
        case dict():
            return ", ".join(f"{k} {readable(v)}" for k, v in value.items())
        case _:
            return str(value)
