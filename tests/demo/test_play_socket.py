"""The protocol through the real server, without a browser."""

import asyncio
import io
import json
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.error import HTTPError
from urllib.request import Request, urlopen

import av
import numpy as np
import pytest
import torch
from gymnasium import spaces
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus
from websockets.typing import Origin

from demo.__main__ import main
from demo.app import build_app, build_page
from demo.play_socket import WINDOW, pack, unpack
from demo.server import listen, served
from demo.session import Session
from tokenizer.state_schema import StateSchema

from ..worldmodel.tiny_world import STATELESS, tiny_world
from .fake_world import SCHEMA, fake_film, fake_world


class Client:
    """Speaks the protocol and answers pictures."""

    def __init__(self, socket: Any) -> None:
        self.socket, self.count, self.answers = socket, 0, True

    async def say(self, **message: Any) -> None:
        await self.socket.send(json.dumps(message))

    async def hear(self) -> tuple[dict[str, Any], bytes]:
        message = await asyncio.wait_for(self.socket.recv(), timeout=20)
        header, payload = (json.loads(message), b"") if isinstance(message, str) else unpack(message)
        if header["type"] == "picture" and self.answers:
            self.count += 1
            await self.say(type="seen", count=self.count)
        return header, payload

    async def hear_of(self, kind: str, **values: Any) -> tuple[dict[str, Any], bytes]:
        for _ in range(400):
            header, payload = await self.hear()
            if header["type"] == kind and all(header[key] == value for key, value in values.items()):
                return header, payload
        raise AssertionError(f"no {kind} with {values} came")

    async def pictures_until_silence(self) -> int:
        count = 0
        try:
            while True:
                await asyncio.wait_for(self.socket.recv(), timeout=0.4)
                count += 1
        except TimeoutError:
            return count

    async def start(self, caption: str | None = None, seed: int = 1) -> None:
        await self.say(type="pace", steps_per_s=None)
        await self.say(type="start", caption=caption, seed=seed)
        await self.hear_of("picture", time=0)


@pytest.fixture(scope="module")
def app() -> Any:
    return build_app(fake_world(step_s=0.002), seats=2)


@pytest.fixture(scope="module")
def url(app: Any) -> Iterator[str]:
    with served(app, listen("127.0.0.1", 0)) as url:
        yield url.replace("http", "ws") + "play"


@asynccontextmanager
async def player(url: str) -> AsyncIterator[Client]:
    async with connect(url, max_size=None) as socket:
        yield Client(socket)


def test_a_message_is_its_header_and_its_payload():
    assert unpack(pack({"a": 1}, b"xyz")) == ({"a": 1}, b"xyz")


def test_the_world_introduces_itself_and_moves_as_keys_say(url):
    async def play() -> None:
        async with player(url) as me:
            hello, _ = await me.hear()
            assert hello["schema"] == SCHEMA.to_json()
            (moves,) = hello["controls"]
            assert [choice["held"] for choice in moves["choices"]] == list(SCHEMA.actions.parts[0].names)
            assert moves["choices"][4] == {"held": "east", "label": "east", "keys": ["KeyX"]}
            assert (hello["event"], hello["upsampler"]) == ("go north", True)
            assert hello["steps_per_s"] == 15
            await me.start()
            await me.say(type="keys", held=["east"])
            xs = []
            for _ in range(20):
                header, pixels = await me.hear_of("picture")
                assert len(pixels) == header["frames"] * header["height"] * header["width"] * 3
                xs.append(header["state"][SCHEMA.columns("player", "position").start])
            assert xs[-1] > xs[0] + 0.05

    asyncio.run(play())


@pytest.mark.parametrize(
    ("message", "sentence"),
    [
        ("not json", "not understood"),
        (b"\x00\xff", "not understood"),
        ("[" * 60000, "not understood"),
        ("[]", "not understood"),
        ('{"type": 3}', "not understood"),
        ('{"type": "dance"}', "'dance' is unknown"),
        ('{"type": "keys", "held": "east"}', "needs 'held' as list"),
        ('{"type": "keys", "held": [["east"]]}', "no action ['east']"),
        ('{"type": "keys", "held": ["jump"]}', "no action 'jump'"),
        ('{"type": "keys", "held": [], "values": [1]}', "needs 'values' as dict"),
        ('{"type": "keys", "held": [], "values": {"x": 1}}', "no slider or switch 'x'; it has none"),
        ('{"type": "start", "caption": null, "seed": true}', "needs 'seed' as int"),
        ('{"type": "start", "caption": 7, "seed": 1}', "needs 'caption' as str or NoneType"),
        ('{"type": "start", "caption": null, "seed": -4}', "seed must lie between"),
        (json.dumps({"type": "start", "caption": "long " * 200, "seed": 1}), "keep it under 400"),
        ('{"type": "start", "caption": null, "seed": 1, "state": 3}', "needs 'state' as dict or NoneType"),
        ('{"type": "start", "caption": null, "seed": 1, "state": {"moon": {}}}', "no entity 'moon'"),
        ('{"type": "start", "caption": "impossible", "seed": 1}', "describe balls"),
        ('{"type": "edit", "edit": {"player": {"position": [NaN, 0]}}}', "finite"),
        ('{"type": "edit", "edit": {"player": {"position": [1e999, 0]}}}', "finite"),
        ('{"type": "edit", "edit": {"player": {"colour": "beige"}}}', "cannot be 'beige'"),
        ('{"type": "pace", "steps_per_s": "fast"}', "pace must be"),
        ('{"type": "switch", "index": 3}', "no branch 4"),
        ('{"type": "record", "on": false}', "Nothing is being recorded"),
    ],
)
def test_garbage_is_answered_by_one_sentence_and_play_goes_on(url, message, sentence):
    async def play() -> None:
        async with player(url) as me:
            await me.start()
            await me.socket.send(message)
            error, _ = await me.hear_of("error")
            assert sentence in error["message"]
            before, _ = await me.hear_of("picture")
            await me.hear_of("picture", time=before["time"] + 3)

    asyncio.run(play())


FREE = {
    "nobody steers": (None, [], {}, lambda action: action is None),
    "a slider": (spaces.Box(-1, 1, (1,)), [], {"action": 0.4}, lambda action: abs(action[0] - 0.4) < 1e-6),
    "a stick": (spaces.Box(-1, 1, (2,)), [], {"0": -1, "1": 0.5}, lambda action: action.tolist() == [-1, 0.5]),
    "a dict": (
        spaces.Dict(gear=spaces.Discrete(3), push=spaces.Box(-1, 1, (2,)), horn=spaces.MultiBinary(1)),
        ["gear=2"],
        {"push.1": 1, "horn": 1},
        lambda action: action["gear"] == 2 and action["push"].tolist() == [0, 1] and action["horn"].tolist() == [1],
    ),
}


@pytest.mark.parametrize("case", FREE)
def test_frames_alone_of_any_size_are_played_with_any_action_space(case):
    space, held, values, taken = FREE[case]
    world = fake_film(space)

    async def play(url: str) -> None:
        async with player(url.replace("http", "ws") + "play") as me:
            hello, _ = await me.hear()
            assert not any(hello[ability] for ability in ("upsampler", "tell", "describe"))
            assert bool(hello["controls"]) == (space is not None)
            await me.start()
            if held or values:
                await me.say(type="keys", held=held, values=values)
            header, pixels = await me.hear_of("picture", time=10)
            assert (header["height"], header["width"], header["state"]) == (24, 40, [])
            assert len(pixels) == 2 * 24 * 40 * 3
            for message, sentence in (
                ({"type": "start", "caption": "a ball", "seed": 1}, "reads no prompt"),
                ({"type": "describe"}, "no words for its state"),
                ({"type": "keys", "held": [], "values": {"wheel": 1}}, "no slider or switch 'wheel'"),
            ):
                await me.say(**message)
                error, _ = await me.hear_of("error")
                assert sentence in error["message"]

    with served(build_app(world), listen("127.0.0.1", 0)) as url:
        asyncio.run(play(url))
    assert taken(world.taken[-1])


@pytest.mark.parametrize("case", FREE)
def test_a_real_world_of_frames_alone_is_played_through_the_socket(case):
    space, held, values, _ = FREE[case]
    world = tiny_world(StateSchema(name="film", actions=space, frames_per_step=2), words=False)

    async def play(url: str) -> None:
        async with player(url.replace("http", "ws") + "play") as me:
            await me.start()
            await me.say(type="keys", held=held, values=values)
            header, pixels = await me.hear_of("picture", time=3)
            assert len(pixels) == header["frames"] * header["height"] * header["width"] * 3

    with served(build_app(world), listen("127.0.0.1", 0)) as url:
        asyncio.run(play(url))


def test_another_world_is_loaded_when_its_page_is_opened():
    loaded = []

    def load() -> Any:
        loaded.append(tiny_world(STATELESS, words=False))
        return loaded[-1]

    async def play(url: str) -> None:
        async with player(url.replace("http", "ws") + "play") as me:
            hello, _ = await me.hear()
            assert hello["schema"] == loaded[-1].schema.to_json()

    app = build_app(fake_world(step_s=0.002), others={"film": ("A film", load), "sea": ("A sea", load)})
    with served(app, listen("127.0.0.1", 0)) as url:

        def page(address: str) -> str:
            with urlopen(url + address) as answer:
                return answer.read().decode()

        assert "worlds/film/" in page("")
        assert not loaded
        assert "../sea/" in page("worlds/film/")
        asyncio.run(play(f"{url}worlds/film/"))
        assert len(loaded) == 1


def test_the_page_shows_what_the_world_brings_and_nothing_it_lacks():
    def texts(world: Any) -> tuple[list[str], dict[str, bool]]:
        parts = [part["props"] for part in build_page(world).config["components"]]
        buttons = [props["value"] for props in parts if isinstance(props.get("value"), str)]
        return buttons, {props["elem_id"]: props["visible"] for props in parts if props.get("elem_id")}

    said, visible = texts(fake_world())
    assert "<h1>The table</h1><p>Every frame is imagined by a world model as you play.</p>" in said
    assert "Two" in said
    assert visible["prompt"]
    assert visible["examples"]
    said, visible = texts(fake_film())
    assert any("<h1>Some film</h1>" in text for text in said)
    assert not any(visible[name] for name in ("prompt", "examples", "motion"))


def test_a_failing_model_is_reported_and_the_player_can_start_again(url, monkeypatch):
    def fail(self: Session) -> None:
        raise RuntimeError("out of memory")

    async def play() -> None:
        async with player(url) as me:
            await me.start()
            with monkeypatch.context() as broken:
                broken.setattr(Session, "step", fail)
                error, _ = await me.hear_of("error")
            assert error["message"].startswith("The world failed with RuntimeError: out of memory. Restart it")
            await me.start()
            await me.hear_of("picture", time=3)

    asyncio.run(play())


def test_two_players_have_worlds_of_their_own_and_a_third_is_told_to_wait(url):
    async def play() -> None:
        async with player(url) as one, player(url) as two:
            await one.start(seed=1)
            await two.start(seed=1)
            await one.say(type="keys", held=["east"])
            await two.say(type="keys", held=["west"])
            (a, _), (b, _) = await one.hear_of("picture", time=10), await two.hear_of("picture", time=10)
            x = SCHEMA.columns("player", "position").start
            assert a["state"][x] > b["state"][x]
            async with player(url) as three:
                refusal, _ = await three.hear()
                assert refusal["message"] == "All 2 seats are taken; try again when somebody has left."

    asyncio.run(play())


def test_who_does_nothing_gives_up_the_seat_to_who_waits(url, monkeypatch):
    async def play() -> None:
        async with player(url) as idle, player(url) as busy:
            await idle.start()
            idle.answers = False
            await asyncio.sleep(0.6)
            await busy.start()
            monkeypatch.setattr("demo.play_socket.PATIENCE", 0.5)
            async with player(url) as waiting:
                await waiting.start()
                farewell, _ = await idle.hear_of("error")
                assert farewell["message"].startswith("Your seat went to somebody who was waiting")
                await busy.say(type="undo")
                await busy.hear_of("picture")

    asyncio.run(play())


@pytest.mark.parametrize("origin", ["http://evil.example", "http://[", "null", "http://127.0.0.1:1", "file://"])
def test_a_page_from_elsewhere_plays_nothing(url, origin: str):
    async def play() -> None:
        with pytest.raises(InvalidStatus, match="403"):
            async with connect(url, origin=Origin(origin)):
                pass
        own = url.replace("ws://", "http://").removesuffix("/play")
        async with connect(url, origin=Origin(own), max_size=None) as socket:
            await Client(socket).start()

    asyncio.run(play())


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "gradio_api/upload", 404),
        ("POST", "", 405),
        ("GET", "gradio_api/queue/data?session_hash=1", 404),
        ("GET", "openapi.json", 404),
        ("POST", "gradio_api/run/predict", 404),
        ("DELETE", "config", 405),
    ],
)
def test_what_the_page_has_no_use_for_is_not_answered(url, method: str, path: str, status: int):
    page = url.replace("ws://", "http://").removesuffix("play")
    data = b"x" * 100 if method == "POST" else None
    with pytest.raises(HTTPError) as refused:
        urlopen(Request(page + path, data=data, method=method), timeout=10)
    refused.value.close()
    assert refused.value.code == status


def test_a_player_who_vanishes_in_the_middle_of_a_step_leaves_a_free_seat(url, app):
    async def play() -> None:
        for _ in range(4):
            async with player(url) as me:
                await me.start()
                await me.say(type="record", on=True)
                await me.hear_of("picture", time=2)
                me.socket.transport.abort()
            await asyncio.sleep(0.1)
        assert not app.state.playroom.players
        async with player(url) as me:
            await me.start()

    asyncio.run(play())


def test_no_more_than_a_window_of_pictures_is_sent_to_one_who_does_not_answer(url):
    async def play() -> None:
        async with player(url) as me:
            me.answers = False
            await me.start()
            assert await me.pictures_until_silence() < WINDOW

    asyncio.run(play())


def test_edit_undo_branch_pause_and_upsample_through_the_socket(url):
    async def play() -> None:
        async with player(url) as me:
            await me.start()
            await me.say(type="edit", edit={"player": {"position": [0.1, 0.2], "velocity": [0, 0]}})
            place = SCHEMA.columns("player", "position")
            for _ in range(50):
                header, _ = await me.hear_of("picture")
                if np.allclose(header["state"][place], [0.1, 0.2], atol=1e-3):
                    break
            else:
                raise AssertionError("the edit was never seen")
            await me.say(type="undo")
            await me.hear_of("picture", frames=1)
            await me.say(type="fork")
            await me.hear_of("picture", branches=2, branch=1)
            await me.say(type="switch", index=0)
            await me.hear_of("picture", branch=0)
            await me.say(type="upsample", on=True)
            await me.hear_of("picture", height=128)
            await me.say(type="pause", on=True)
            assert await me.pictures_until_silence() <= WINDOW

    asyncio.run(play())


def test_telling_and_describing_through_the_socket(url):
    async def play() -> None:
        async with player(url) as me:
            await me.start()
            await me.say(type="describe")
            said, _ = await me.hear_of("caption")
            assert said["text"] == "the player is south-west"
            await me.say(type="tell", event="go north")
            header, _ = await me.hear_of("picture", time=30)
            assert header["state"][SCHEMA.columns("player", "position")][1] > -0.2
            await me.say(type="tell", event="far too long to be told " * 4)
            error, _ = await me.hear_of("error")
            assert "shorten it" in error["message"]

    asyncio.run(play())


def test_reaching_the_target_ends_the_world_until_the_player_plays_on(url):
    async def play() -> None:
        async with player(url) as me:
            await me.start()
            await me.say(type="edit", edit={"player": {"position": [0.3, 0.3], "velocity": [0, 0]}})
            end, _ = await me.hear_of("picture", terminated=True)
            assert end["reward"] == 1
            assert end["playing"] is False
            await me.say(type="edit", edit={"player": {"position": [0.0, 0.0]}})
            await me.say(type="pause", on=False)
            await me.hear_of("picture", playing=True)

    asyncio.run(play())


def test_a_recording_comes_back_as_a_playable_mp4(url):
    async def play() -> None:
        async with player(url) as me:
            await me.start()
            await me.say(type="record", on=True)
            await me.hear_of("picture", recording=True)
            await me.hear_of("picture", time=30)
            await me.say(type="record", on=False)
            header, video = await me.hear_of("recording")
            with av.open(io.BytesIO(video), "r") as opened:
                frames = sum(1 for _ in opened.decode(video=0))
            assert frames == round(header["seconds"] * 60) > 60

    asyncio.run(play())


def test_a_recording_outlives_its_connection(url, app):
    async def play() -> None:
        async with player(url) as me:
            hello, _ = await me.hear_of("hello")
            await me.start()
            await me.say(type="record", on=True)
            await me.hear_of("picture", time=4, recording=True)
            me.socket.transport.abort()
        await asyncio.sleep(0.1)
        async with player(url), player(url), player(f"{url}?before={hello['player']}") as third:
            await third.hear_of("error")  # there is no seat, and nothing is lost by asking
        await asyncio.sleep(0.1)
        async with player(f"{url}?before={hello['player']}") as me:
            header, video = await me.hear_of("recording")
            with av.open(io.BytesIO(video), "r") as container:
                assert len(list(container.decode(video=0))) == round(header["seconds"] * SCHEMA.fps) > 0
        async with player(f"{url}?before={hello['player']}") as me:
            await me.start()
            assert hello["player"] not in app.state.playroom.lost

    asyncio.run(play())


def test_the_page_needs_nothing_from_elsewhere(url):
    page = url.replace("ws://", "http://").removesuffix("play")
    for path in ("", "play-assets/play.js", "play-assets/map.js", "config"):
        with urlopen(page + path, timeout=10) as answer:
            text = answer.read().decode()
        assert "fonts.googleapis" not in text
        assert "cdn" not in text.lower()


@pytest.fixture
def same_threads() -> Iterator[None]:
    """``main`` is the process's owner and chooses its threads; here it is a guest."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("same_threads")
def test_smoke_plays_through_the_socket_and_writes_its_figures(tmp_path, capsys):
    file = tmp_path / "smoke.json"
    assert main(["--smoke", "--json", str(file)], load=lambda name, device, engine: fake_world()) == 0
    figures = json.loads(file.read_text(encoding="utf-8"))
    assert figures["frames_per_s"] == pytest.approx(4 * figures["steps_per_s"], rel=0.01)
    assert figures["steps_per_s"] > 15
    assert figures["step_ms"]["p50"] <= figures["step_ms"]["p95"]
    assert 0 < figures["first_picture_s"] < 60
    assert "steps/s" in capsys.readouterr().out


@pytest.mark.usefixtures("same_threads")
def test_smoke_fails_with_a_sentence_when_nothing_moves(capsys):
    world = fake_world()
    world.start = lambda **options: still(fake_world().start(seed=1))
    assert main(["--smoke"], load=lambda name, device, engine: world) == 1
    assert "The picture changed in only 0 of 40 steps" in capsys.readouterr().err


def still(rollout: Any) -> Any:
    rollout._move = lambda action: None
    return rollout


@pytest.mark.parametrize(
    ("options", "sentence"),
    [(["--port", "99999"], "choose another --port"), (["--port", "0"], "no world called")],
)
def test_what_prevents_the_demo_is_said_in_a_sentence(options, sentence, capsys):
    def load(name: str | None, device: str | None, engine: str) -> Any:
        raise ValueError(f"there is no world called {name!r}")

    assert main([*options, "--no-browser"], load=load) == 1
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize("seats", ["0", "-3"])
def test_a_room_has_seats(seats: str, capsys):
    with pytest.raises(SystemExit):
        main(["--seats", seats], load=lambda *_: fake_world())
    assert f"--seats is at least 1, got {seats}" in capsys.readouterr().err
