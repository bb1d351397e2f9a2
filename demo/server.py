"""Opens the port first and serves when the world is there: a browser that comes early waits, it isn't refused."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from demo.play_socket import MAX_MESSAGE

FIRST_PORT = 7860


def listen(host: str, port: int | None) -> socket.socket:
    """A listening socket on ``port``; None takes the first free one from 7860, 0 any free one."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for candidate in range(FIRST_PORT, FIRST_PORT + 100) if port is None else [port]:
        listener = socket.socket(family, socket.SOCK_STREAM)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((host, candidate))
        except (OSError, OverflowError) as refusal:
            listener.close()
            if port is not None:
                sentence = f"Cannot listen on {host}:{port} ({refusal}); choose another --port or --host."
                raise ValueError(sentence) from None
            continue
        listener.listen(128)
        return listener
    raise ValueError(f"No free port from {FIRST_PORT} to {FIRST_PORT + 99}; choose one with --port.")


def url_of(listener: socket.socket) -> str:
    address, port = listener.getsockname()[:2]
    assert isinstance(address, str)
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(address, address)
    return f"http://{f'[{host}]' if ':' in host else host}:{port}/"


def serve(app: Any, listener: socket.socket) -> None:
    """Serves until interrupted."""
    _server(app).run(sockets=[listener])


@contextmanager
def served(app: Any, listener: socket.socket) -> Iterator[str]:
    """Serves from another thread as long as the context lasts; gives the address."""
    server = _server(app)
    thread = threading.Thread(target=lambda: asyncio.run(server.serve(sockets=[listener])), daemon=True)
    thread.start()
    try:
        yield url_of(listener)
    finally:
        server.should_exit = True
        thread.join(timeout=10)
        listener.close()


def _server(app: Any) -> Any:
    import uvicorn

    # Pictures hardly compress and deflate costs more than sending them; messages from players are small. uvicorn's own
    # configuration of logging would close everybody else's handlers, and absl's closes the stream it writes to.
    return uvicorn.Server(
        uvicorn.Config(
            app, log_level="warning", log_config=None, ws_max_size=MAX_MESSAGE, ws_per_message_deflate=False,
            timeout_graceful_shutdown=2,
        )
    )  # fmt: skip
