"""The page: Gradio's widgets around a canvas, and the application that serves both and the socket.

The prompt, the seed and the examples are Gradio widgets whose events stay in the browser: they tell
``assets/play.js`` what to start, and everything after that runs over the socket.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Mapping
from functools import partial
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import gradio as gr
from fastapi import FastAPI
from gradio import themes
from starlette.responses import PlainTextResponse
from starlette.routing import Mount
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

from demo.play_socket import Playroom
from tokenizer.state_schema import StateSchema

if TYPE_CHECKING:
    from worldmodel.world import World

ASSETS = Path(__file__).parent / "assets"
SYSTEM_FONTS = ("ui-sans-serif", "system-ui", "Segoe UI", "DejaVu Sans", "sans-serif")
SYSTEM_MONO = ("ui-monospace", "DejaVu Sans Mono", "monospace")
START = """(caption, seed, motion) => {
    const detail = {caption: caption || null, seed: Math.trunc(seed) || 0, state: motion ? JSON.parse(motion) : null};
    document.dispatchEvent(new CustomEvent("world:start", {detail}));
}"""
NEXT = f"""(caption, seed, motion) => {{
    const next = (Math.trunc(seed) || 0) + 1;
    ({START})(caption, next, motion);
    return next;
}}"""
LOAD = """(async () => {
    try {
        const theme = localStorage.getItem("theme");
        if (theme) document.body.classList.toggle("dark", theme === "dark");
    } catch { /* this browser keeps nothing */ }
    const { play } = await import(new URL("play-assets/play.js", document.baseURI));
    const stage = await new Promise((found) => {
        (function look() {
            const stage = document.querySelector("#stage .stage");
            stage ? found(stage) : requestAnimationFrame(look);
        })();
    });
    document.addEventListener("world:next", () => document.querySelector("#next-world").click());
    play(stage, element.querySelector(".scene"));
})()"""
HEAD = "<h1>{name}</h1><p>{intro}</p>{others}"
OTHERS = "<nav aria-label='Other worlds'>Other worlds: {links}</nav>"
INTRO = "Every frame is imagined by a world model as you play."
_UNUSED = re.compile(r"/(gradio_api/(queue|run|call|api|upload|file|proxy|component|cancel|reset)|openapi\.json)")
THEME_TOGGLE = """() => {
    const dark = document.body.classList.toggle("dark");
    try { localStorage.setItem("theme", dark ? "dark" : "light"); } catch { /* this browser keeps nothing */ }
}"""


def build_page(world: World, others: Mapping[str, str] | None = None) -> gr.Blocks:
    """The widgets. A world's page tells its name and what to begin with; all else the world says over the socket.

    What the world cannot do is not shown: a prompt where it reads none, a map where it has no state. ``others`` are the
    pages of other worlds, names by address.
    """
    about, reads = world.page, world.text is not None
    name = name_of(world)
    links = " · ".join(f'<a href="{escape(to)}">{escape(other)}</a>' for to, other in (others or {}).items())
    intro = str(about.get("intro") or INTRO)
    head = HEAD.format(name=escape(name), intro=escape(intro), others=OTHERS.format(links=links) if links else "")
    beginnings = about.get("examples", {}) if reads else {}
    with gr.Blocks(title=f"Play {name}", analytics_enabled=False) as page:
        with gr.Row(elem_id="page-head"):
            gr.HTML(head, apply_default_css=False)
            theme = gr.Button("Light / dark", size="sm", min_width=110, scale=0)
        with gr.Row():
            with gr.Column(scale=11, min_width=320):
                gr.HTML(html_template=_asset("stage.html"), js_on_load=None, apply_default_css=False, elem_id="stage")
            with gr.Column(scale=10, min_width=320):
                prompt = gr.Textbox(
                    label="Prompt", show_label=False, container=False, lines=1, max_lines=2, elem_id="prompt",
                    visible=reads, placeholder="Describe a scene, or leave this empty and let the model choose one",
                )  # fmt: skip
                with gr.Row(elem_id="examples", visible=bool(beginnings)):
                    examples = [
                        (gr.Button(str(title), size="sm", min_width=90), str(caption))
                        for title, caption in beginnings.items()
                    ]
                with gr.Row(elem_id="beginning"):
                    seed = gr.Number(
                        7, label="Seed", show_label=False, container=False, precision=0, minimum=0, min_width=90
                    )
                    motion = gr.Dropdown(
                        _motions(world.schema), value="", label="Motion", show_label=False, container=False,
                        min_width=160, visible=bool(world.schema.role_columns("motion")), elem_id="motion",
                    )  # fmt: skip
                    start = gr.Button("Start this world", variant="primary", size="md", min_width=150, scale=2)
                    following = gr.Button("Next seed", size="md", min_width=110, scale=1, elem_id="next-world")
                gr.HTML(html_template=_asset("scene.html"), js_on_load=LOAD, apply_default_css=False, elem_id="scene")
        theme.click(None, js=THEME_TOGGLE)
        for begin in (start.click, prompt.submit, seed.submit):
            begin(None, [prompt, seed, motion], js=START)
        following.click(None, [prompt, seed, motion], seed, js=NEXT)
        for button, caption in examples:
            said = json.dumps(caption)
            choose = f"(_, seed, motion) => {{ ({START})({said}, seed, motion); return {said} }}"
            button.click(None, [prompt, seed, motion], prompt, js=choose)
    return page


def _motions(schema: StateSchema) -> list[tuple[str, str]]:
    """What may be said of a scene's motion intensity, and the part of a state that says so, as JSON."""
    choices = [("any motion", "")]
    for name, field in ((e.name, f) for e in schema.entities for f in e.fields if f.role == "motion"):
        for quarter in range(4):
            value = round(field.low + quarter / 4 * (field.high - field.low), 4)
            said = f"about {value:g} {field.unit}" if quarter else "all at rest"
            choices.append((said, json.dumps({name: {field.name: value}})))
    return choices


def name_of(world: World) -> str:
    """What a page calls it."""
    return str(world.page.get("name") or world.schema.name.replace("_", " ").capitalize())


class _Closed:
    """An application of which nothing is answered that the page has no use for: it sends no forms and no files."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            unused = _UNUSED.search(scope["path"]) is not None
            if unused or scope["method"] not in ("GET", "HEAD"):
                await PlainTextResponse("The page has no use for this.", 404 if unused else 405)(scope, receive, send)
                return
        await self.app(scope, receive, send)


class _Late:
    """An application that is made when it is first asked for."""

    def __init__(self, make: Callable[[], FastAPI]) -> None:
        self.make, self.lock = make, asyncio.Lock()
        self.app: FastAPI | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with self.lock:
            if self.app is None:
                self.app = await asyncio.to_thread(self.make)
        await self.app(scope, receive, send)


def build_app(
    world: World, *, seats: int = 4, others: Mapping[str, tuple[str, Callable[[], World]]] | None = None
) -> FastAPI:
    """The application: the socket at ``/play``, the page at ``/``. ``seats`` players at once.

    ``others`` are further worlds, each at ``/worlds/KEY/``: what they are called, and who loads them. One is loaded
    when somebody first opens its page.
    """
    others = others or {}
    app = _application(world, seats, {f"worlds/{key}/": name for key, (name, _) in others.items()})

    def late(key: str) -> FastAPI:
        links = {"../../": name_of(world)} | {f"../{to}/": name for to, (name, _) in others.items() if to != key}
        return _application(others[key][1](), seats, links)

    for key in others:
        app.router.routes.insert(0, Mount(f"/worlds/{key}", _Late(partial(late, key))))  # before the page, at "/"
    return app


def _application(world: World, seats: int, links: Mapping[str, str]) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(_Closed)
    app.state.playroom = playroom = Playroom(world, seats=seats)
    app.add_api_websocket_route("/play", playroom.play)
    app.mount("/play-assets", StaticFiles(directory=ASSETS), name="play-assets")
    fonts, mono = ([themes.Font(font) for font in family] for family in (SYSTEM_FONTS, SYSTEM_MONO))
    theme = themes.Default(primary_hue="indigo", neutral_hue="slate", font=fonts, font_mono=mono)
    theme.set(
        body_text_color_subdued="*neutral_500", body_text_color_subdued_dark="*neutral_400",
        button_primary_background_fill="*primary_600", button_primary_background_fill_dark="*primary_600",
    )  # fmt: skip
    return gr.mount_gradio_app(
        app, build_page(world, links), path="/", theme=theme, css_paths=[ASSETS / "play.css"],
        footer_links=[], run_history=False, show_error=False, ssr_mode=False,
    )  # fmt: skip


def _asset(name: str) -> str:
    return (ASSETS / name).read_text(encoding="utf-8")
