"""How a browser plays: one WebSocket per player, keys going in, pictures coming out.

The client sends JSON objects with a ``type``:

| type | fields | meaning |
|---|---|---|
| ``start`` | ``caption`` (or null), ``seed``, ``state`` (or null): {entity: {field: value}} | begin a world |
| ``keys`` | ``held``: choices, ``values``: {part: number} | what is held and set (the server keeps time) |
| ``edit`` | ``edit``: {entity: {field: value}}, ``continues`` | write the state; true within a drag |
| ``tell`` | ``event`` | tell the next step what happens |
| ``describe`` | | ask for the moment in words |
| ``undo``, ``fork``, ``switch`` | ``index`` | go back, branch, change branch |
| ``pause`` | ``on`` | hold still, or go on (also after the end) |
| ``pace`` | ``steps_per_s`` (or null) | steps a second; null is as fast as possible |
| ``upsample``, ``record`` | ``on`` | switch them; the end of a recording sends its mp4 |
| ``seen`` | ``count`` | pictures received so far: no more than ``WINDOW`` go unanswered |

A player who comes back says ``?before=`` with the name that ``hello`` gave, and is sent what was being recorded.

The server sends text (``hello``: schema, controls, abilities and a name; ``caption``, ``error``: a sentence) and binary
messages: a little-endian uint32 ``n``, ``n`` bytes of JSON header, then the payload. A ``picture`` carries its frames
as raw RGB, frame after frame; a ``recording`` an mp4. Raw, because at 64 and 128 pixels a side lossless coding takes
0.2 to 1.3 ms a frame to halve what a local socket carries for nothing.

Whatever a player sends, the answer is one sentence and the server lives on. All model work of all players
is done by one thread, in turn: players don't trample on each other, the event loop stays free, and PyTorch
keeps a single thread pool.
"""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import struct
from collections import deque
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from time import perf_counter
from typing import TYPE_CHECKING, Any, TypeVar

from starlette.websockets import WebSocket, WebSocketDisconnect

from demo.recording import Recording
from demo.session import Picture, Session

if TYPE_CHECKING:
    from worldmodel.world import World

WINDOW = 4
MAX_MESSAGE = 2**16
MAX_WAITING = 32
MAX_PACE = 240.0
PATIENCE = 120.0  # seconds

Result = TypeVar("Result")

log = logging.getLogger(__name__)


def pack(header: dict[str, Any], payload: bytes) -> bytes:
    """A binary message: length of the header, header, payload."""
    head = json.dumps(header).encode()
    return struct.pack("<I", len(head)) + head + payload


def unpack(message: bytes) -> tuple[dict[str, Any], bytes]:
    (length,) = struct.unpack_from("<I", message)
    return json.loads(message[4 : 4 + length]), message[4 + length :]


class Playroom:
    """The world and the seats before it."""

    def __init__(self, world: World, *, seats: int = 4) -> None:
        self.world = world
        self.seats = seats
        self.players: set[Player] = set()
        self.lost: dict[str, Recording] = {}  # of players whose connection broke, by their names
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="world")

    async def work(self, job: Callable[[], Result]) -> Result:
        """Runs ``job`` on the thread that owns the model, after whatever other players asked before."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, job)

    def keep(self, name: str, recording: Recording) -> None:
        """Keeps what a player recorded until they come back; of as many players as there are seats."""
        self.lost[name] = recording
        for old in list(self.lost)[: -self.seats]:
            del self.lost[old]

    async def play(self, socket: WebSocket) -> None:
        """Serves one socket until it closes.

        A page of another origin is refused, or any page on the web could play here (RFC 6455, section 10.2). Where all
        seats are taken, whoever has done nothing for ``PATIENCE`` seconds gives up theirs.
        """
        if not _of_this_page(socket):
            await socket.close(1008)
            return
        await socket.accept()
        player = Player(socket, self)
        if len(self.players) >= self.seats:
            quiet = max(self.players, key=lambda other: other.quiet)
            if quiet.quiet > PATIENCE:
                self.players.discard(quiet)
                await quiet.leave("Your seat went to somebody who was waiting; you get one when it is free.")
        if len(self.players) >= self.seats:
            await player.complain(f"All {self.seats} seats are taken; try again when somebody has left.")
            await socket.close(1013)
            return
        self.players.add(player)
        try:
            await player.play()
        finally:
            self.players.discard(player)
            player.close()


def _of_this_page(socket: WebSocket) -> bool:
    """Whether the page that opens a socket came from where the socket is; programs say nothing of an origin."""
    origin = socket.headers.get("origin")
    own = {socket.headers.get("host"), socket.headers.get("x-forwarded-host")}
    return origin is None or origin.partition("://")[2] in own


@dataclass(frozen=True)
class Command:
    """Something to be done to the session between two steps, and the picture it leads to, if it leads to one."""

    run: Callable[[], Picture | None]
    plays_on: bool = False
    continues: bool | None = None  # of an edit; None for anything else


@dataclass(frozen=True)
class Question:
    """Something to be asked of the session between two steps, answered in words."""

    ask: Callable[[], str]


class Player:
    """One socket and its session: a task that reads and a task that keeps time."""

    def __init__(self, socket: WebSocket, room: Playroom) -> None:
        self.socket, self.room = socket, room
        self.session = Session(room.world)
        schema = room.world.schema
        self.steps_per_s: float | None = schema.fps / schema.frames_per_step
        self.playing = False
        self.recording: Recording | None = None
        self.name = secrets.token_urlsafe(12)
        self._recorded: Recording | None = None  # finished, not yet sent
        self.sent = self.seen = 0
        self._heard = perf_counter()
        self._waiting: deque[Command | Question] = deque()
        self._news = asyncio.Event()
        self._sending = asyncio.Lock()

    async def play(self) -> None:
        before = self.socket.query_params.get("before", "")
        self._recorded = self.room.lost.pop(before, None)  # not sooner: who gets no seat comes again
        await self._send(self._hello())
        tasks = [asyncio.create_task(self._read()), asyncio.create_task(self._keep_time())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            for result in await asyncio.gather(*tasks, return_exceptions=True):
                if isinstance(result, Exception) and not isinstance(result, WebSocketDisconnect):
                    log.error("a player's connection failed", exc_info=result)

    @property
    def quiet(self) -> float:
        """Seconds since the player last did anything."""
        return perf_counter() - self._heard

    async def leave(self, sentence: str) -> None:
        """Says why, and closes the socket; its reader then ends the rest."""
        with suppress(RuntimeError, WebSocketDisconnect):
            await self.complain(sentence)
            await self.socket.close(1013)

    def close(self) -> None:
        # A step may still be running on the model's thread; it holds what it needs and ends by itself.
        self.session.close()
        recording = self.recording or self._recorded
        if recording is not None and recording.num_frames:
            self.room.keep(self.name, recording)

    def _hello(self) -> dict[str, Any]:
        world = self.room.world
        return {
            "type": "hello",
            "player": self.name,
            "schema": world.schema.to_json(),
            "controls": self.session.controls.describe(),
            "upsampler": world.upsampler is not None,
            "tell": world.max_event > 0,
            "event": str(world.page.get("event", "")),
            "describe": self.session.describes,
            "steps_per_s": self.steps_per_s,
            "max_caption": self.session.config.max_caption,
        }

    # -- what comes in ------------------------------------------------------------------------------

    async def _read(self) -> None:
        while True:
            message = await self.socket.receive()
            if message["type"] == "websocket.disconnect":
                return
            try:
                self._take(message.get("text"))
            except ValueError as mistake:
                await self.complain(str(mistake))
            self._news.set()

    def _take(self, text: str | None) -> None:
        """Obeys at once what touches no rollout, and lets the rest wait for the end of the step."""
        said = _parse(text)
        session = self.session
        if said["type"] != "seen":  # which the page says by itself
            self._heard = perf_counter()
        match said["type"]:
            case "keys":
                session.hold(_field(said, "held", list), _field({"values": {}, **said}, "values", dict))
            case "seen":
                self.seen = min(_field(said, "count", int), self.sent)
            case "pause":
                self.playing = not _field(said, "on", bool) and bool(session.branches)
            case "pace":
                pace = said.get("steps_per_s")
                if pace is not None and not (isinstance(pace, (int, float)) and 0 < pace <= MAX_PACE):
                    raise ValueError(f"The pace must be null or up to {MAX_PACE:g} steps a second, got {pace!r}.")
                self.steps_per_s = pace
            case "start":
                caption, seed = _field(said, "caption", (str, type(None))), _field(said, "seed", int)
                state = _field(said, "state", (dict, type(None)))
                self._wait(Command(lambda: session.start(caption, seed, state), plays_on=True))
            case "edit":
                self._wait_for_edit(_field(said, "edit", dict), said.get("continues") is True)
            case "tell":
                event = _field(said, "event", str)
                self._wait(Command(lambda: session.tell(event), plays_on=True))
            case "describe":
                self._wait(Question(session.describe))
            case "undo":
                self._wait(Command(session.undo, plays_on=True))
            case "fork":
                self._wait(Command(session.fork))
            case "switch":
                index = _field(said, "index", int)
                self._wait(Command(lambda: session.switch(index), plays_on=True))
            case "upsample":
                on = _field(said, "on", bool)
                self._wait(Command(lambda: session.set_upsample(on)))
            case "record":
                self._switch_recording(_field(said, "on", bool))
            case unknown:
                raise ValueError(f"The message type {unknown!r} is unknown; demo/play_socket.py lists them.")

    def _wait(self, command: Command | Question) -> None:
        if len(self._waiting) >= MAX_WAITING:
            raise ValueError("Too many commands at once; wait for the picture to follow.")
        self._waiting.append(command)

    def _wait_for_edit(self, edit: dict[str, Any], continues: bool) -> None:
        """A drag sends places faster than steps are made: of those waiting, only the last one counts."""
        last = self._waiting[-1] if self._waiting else None
        if continues and isinstance(last, Command) and last.continues is not None:
            self._waiting.pop()
            continues = last.continues
        self._wait(Command(lambda: self.session.edit(edit, continues=continues), continues=continues))

    # -- time ---------------------------------------------------------------------------------------

    @property
    def _may_step(self) -> bool:
        return self.playing and self.sent - self.seen < WINDOW

    async def _keep_time(self) -> None:
        due = perf_counter()
        while True:
            self._news.clear()
            while self._waiting:
                await self._obey(self._waiting.popleft())
            if self._recorded is not None:
                await self._deliver(self._recorded)
            if not self._may_step:
                await self._news.wait()
                continue
            if (picture := await self._attempt(self.session.step)) is None:
                self.playing = False
                continue
            self.playing = self.playing and not picture.terminated
            await self._show(picture)
            await self._record(picture)
            # Late by more than a step, the lost time is let go: no burst follows a pause.
            period = 1 / self.steps_per_s if self.steps_per_s else 0.0
            due = max(due + period, perf_counter() - period)
            await asyncio.sleep(max(0.0, due - perf_counter()))

    async def _obey(self, command: Command | Question) -> None:
        if isinstance(command, Question):
            if (answer := await self._attempt(command.ask)) is not None:
                await self._send({"type": "caption", "text": answer})
        elif (picture := await self._attempt(command.run)) is not None:
            self.playing = self.playing or command.plays_on
            await self._show(picture)

    async def _attempt(self, job: Callable[[], Result]) -> Result | None:
        return await self._guard(self.room.work(job))

    async def _guard(self, work: Awaitable[Result]) -> Result | None:
        """The work's result, or None after telling the player in a sentence what went wrong."""
        try:
            return await work
        except ValueError as mistake:
            await self.complain(str(mistake))
        except Exception as failure:
            log.exception("the world failed")
            await self.complain(
                f"The world failed with {type(failure).__name__}: {failure}. Restart it, or go back with undo."
            )
        return None

    # -- recording ----------------------------------------------------------------------------------

    def _switch_recording(self, on: bool) -> None:
        if on == (self.recording is not None):
            raise ValueError("A recording is running already." if on else "Nothing is being recorded.")
        if on:
            self.recording = Recording(fps=self.room.world.schema.fps)
        else:
            self.recording, self._recorded = None, self.recording

    async def _record(self, picture: Picture) -> None:
        if self.recording is not None:
            await self._guard(asyncio.to_thread(self.recording.write, picture.frames))
            if self.recording is not None and self.recording.full:
                self._switch_recording(on=False)

    async def _deliver(self, recorded: Recording) -> None:
        self._recorded = None
        video = await self._guard(asyncio.to_thread(recorded.finish))
        if video:
            await self._send(pack({"type": "recording", "seconds": recorded.num_frames / recorded.fps}, video))
        else:
            await self.complain("The recording is empty: no step was made while it ran.")

    # -- what goes out ------------------------------------------------------------------------------

    async def complain(self, sentence: str) -> None:
        await self._send({"type": "error", "message": sentence})

    async def _show(self, picture: Picture) -> None:
        count, height, width, _ = picture.frames.shape
        header = {
            "type": "picture",
            "time": picture.time,
            "frames": count,
            "height": height,
            "width": width,
            "state": [round(value, 4) for value in picture.state],
            "reward": picture.reward,
            "terminated": picture.terminated,
            "playing": self.playing,
            "branch": self.session.current,
            "branches": len(self.session.branches),
            "recording": self.recording is not None,
            "step_ms": round(picture.step_ms, 2),
        }
        self.sent += 1
        await self._send(pack(header, picture.frames.tobytes()))

    async def _send(self, message: dict[str, Any] | bytes) -> None:
        async with self._sending:
            if isinstance(message, bytes):
                await self.socket.send_bytes(message)
            else:
                await self.socket.send_text(json.dumps(message))


def _parse(text: str | None) -> dict[str, Any]:
    try:
        said = json.loads(text or "")
    except (ValueError, RecursionError):
        said = None
    if not isinstance(said, dict) or not isinstance(said.get("type"), str):
        raise ValueError('That message was not understood; send JSON such as {"type": "undo"}.')
    return said


def _field(said: dict[str, Any], name: str, kind: type | tuple[type, ...]) -> Any:
    """A field of the wanted type. Python counts True as 1; players don't."""
    value = said.get(name)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        wanted = " or ".join(k.__name__ for k in (kind if isinstance(kind, tuple) else (kind,)))
        raise ValueError(f"A {said['type']!r} message needs {name!r} as {wanted}, got {value!r}.")
    return value
