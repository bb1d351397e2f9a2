"""``python -m demo`` opens a world to play; ``python -m demo --smoke`` plays it through its socket and exits.

``--simulate WORLD --record DIR`` plays a world's simulator in place of a model of it, and records what is played.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import os
import sys
import webbrowser
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from socket import socket
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from demo.server import listen, serve, served, url_of

if TYPE_CHECKING:
    from worldmodel.world import World

    Load: TypeAlias = Callable[[str | None, str | None, str], World]


def load_world(name: str | None, device: str | None, engine: str) -> World:
    from worldmodel.world import World

    return World.from_pretrained(name, device=device, engine=engine)


def load_simulated(out: Path, name: str | None, device: str | None, engine: str) -> Any:
    """A simulator that stands where a model is asked for, and records into ``out`` what is played."""
    from demo.simulated_world import SimulatedWorld

    assert name is not None
    return SimulatedWorld(name, out)


def settle_threads(world: World) -> None:
    """Measured now that nothing else loads: a thread more than the machine has free makes steps slower."""
    import torch

    from worldmodel.threads import choose_threads

    if world.device.type == "cpu":
        torch.set_num_threads(choose_threads().count)


def main(argv: Sequence[str] | None = None, load: Load = load_world) -> int:
    """Returns the exit status. ``load`` makes a world of its name, device and engine."""
    begun = perf_counter()
    parser = _parser()
    options = parser.parse_args(argv)
    if (options.simulate is None) != (options.record is None):
        parser.error("--simulate and --record go together: the world, and the folder to record it into")
    if options.seats < 1:
        parser.error(f"--seats is at least 1, got {options.seats}")
    if options.simulate is not None:
        options.world, options.seats, options.engine = options.simulate, 1, "torch"
        load = partial(load_simulated, options.record)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    try:
        with closing(listen(options.host, 0 if options.smoke and options.port is None else options.port)) as listener:
            return _play(listener, options, load, begun)
    except (ValueError, ImportError, OSError) as mistake:
        print(f"python -m demo: {mistake}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # while it was loading
        return 130


def _play(listener: socket, options: argparse.Namespace, load: Load, begun: float) -> int:
    url = url_of(listener)
    if not options.smoke:
        print(f"Loading {options.world or 'the bundled world'}; soon at {url}", flush=True)
    # The world loads while Gradio is imported; each takes seconds.
    with ThreadPoolExecutor(1) as beside:
        loading = beside.submit(load, options.world, options.device, options.engine)
        from demo.app import build_app

        world = loading.result()
    settle_threads(world)
    if options.engine != "torch":  # which compiles: now, not when the first player waits for a picture
        world.start().step(world.actions.idle())
    others = {} if options.simulate else _others(options, load)
    app = build_app(world, seats=options.seats, others=others)
    try:
        if options.smoke:
            return _smoke(app, listener, begun, options.json)
        print(f"Play at {url} (stop with Ctrl+C); ready after {perf_counter() - begun:.1f} s", flush=True)
        if not options.no_browser and _has_screen():
            webbrowser.open(url)
        with suppress(KeyboardInterrupt):
            serve(app, listener)
    finally:
        if options.simulate is not None:
            print(cast(Any, world).close(), flush=True)
    return 0


def _others(options: argparse.Namespace, load: Load) -> dict[str, tuple[str, Callable[[], World]]]:
    """Bundled worlds besides the one that is opened: what they are called, and who loads them."""
    from worldmodel.storage import bundled_worlds, default_world, page_of

    names = [name for name in bundled_worlds() if name != (options.world or default_world())]
    return {
        name: (page_of(name).get("name", name), partial(load, name, options.device, options.engine)) for name in names
    }


def _smoke(app: Any, listener: Any, begun: float, file: Path | None) -> int:
    from demo.smoke import play

    with served(app, listener) as url:
        result = asyncio.run(play(url))
    result["first_picture_s"] = round(result.pop("first_picture_at") - begun, 2)
    print(
        f"{result['steps_per_s']} steps/s, {result['frames_per_s']} frames/s; step {result['step_ms']['p50']} ms "
        f"(p95 {result['step_ms']['p95']} ms); first picture after {result['first_picture_s']} s"
    )
    if file is not None:
        file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m demo", description="Play a world model in the browser.")
    parser.add_argument("--world", help="a bundled world's name (the default one if left out), a folder or a hub id")
    parser.add_argument("--simulate", metavar="WORLD", help="play this world's simulator, as train.record names it")
    parser.add_argument(
        "--record", type=Path, metavar="DIR", help="with --simulate: the recording to begin or go on with"
    )
    parser.add_argument("--device", help="where the model runs: cpu, cuda, …; default: as the world chooses")
    parser.add_argument(
        "--engine", default="torch", help="torch, openvino (faster on CPUs; the extra `fast`) or cuda_graph"
    )
    parser.add_argument("--host", default="127.0.0.1", help="0.0.0.0 lets other machines play, too")
    parser.add_argument("--port", type=int, help="default: the first free one from 7860")
    parser.add_argument("--seats", type=int, default=4, help="players at once")
    parser.add_argument("--no-browser", action="store_true", help="don't open a browser")
    parser.add_argument("--smoke", action="store_true", help="play 40 steps through the socket, print the speed, exit")
    parser.add_argument("--json", type=Path, metavar="FILE", help="with --smoke: write the figures there")
    return parser


def _has_screen() -> bool:
    """A text browser in the terminal would only be in the way."""
    return sys.platform in ("darwin", "win32") or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


if __name__ == "__main__":
    sys.exit(main())
