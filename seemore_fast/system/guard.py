"""Who may talk to the demo page and the service: programs and pages of its own address, with ids that exist.

A page from elsewhere could reach a server of this machine through the visitor's browser: by a name that it
lets point here (DNS rebinding: the Host is foreign), or by sending forms (the Origin is foreign).
"""

from __future__ import annotations

import ipaddress
import logging
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any
from urllib.parse import urlsplit

log = logging.getLogger(__name__)

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]


class Guard:
    """ASGI middleware: 403 for a foreign Host (where the page listens to this machine only) or Origin; 404
    where an unknown session, file or event makes Gradio fail.  ``origins`` are not foreign."""

    def __init__(self, app: Any, host: str, origins: tuple[str, ...] = ()):
        self.app = app
        self._local_only = _is_loopback(host)
        self._host, self._origins = host, origins

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self.app(scope, receive, send)
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if self._local_only and not self._is_ours(host):
            return await _answer(send, 403, f"this page is not called {host[:100]}")
        if origin is not None and origin not in self._origins and _server(origin) != host.lower():
            return await _answer(send, 403, "requests from other pages are not taken")
        held: list[_Message] = []
        begun = False

        async def passing(message: _Message) -> None:
            # Of an unknown session Gradio's streams send one piece, which says so, and fail: it is held back.
            nonlocal begun
            streams = (b"content-type", b"text/event-stream; charset=utf-8")
            if not begun and (
                message["type"] == "http.response.start"
                or (len(held) == 1 and message.get("more_body") and streams in held[0]["headers"])
            ):
                held.append(message)
                return
            begun = True
            while held:
                await send(held.pop(0))
            await send(message)

        try:
            await self.app(scope, receive, passing)
        except (LookupError, ValueError, AttributeError, TypeError, RuntimeError) as error:
            if begun:
                raise
            log.debug("%s %s", scope.get("path"), error)
            await _answer(send, 404, "there is no such session, event or file")

    def _is_ours(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        return name in ("localhost", self._host) or _is_loopback(name)


def _server(address: str) -> str:
    try:
        return urlsplit(address).netloc.lower()
    except ValueError:  # [ without ]
        return ""


def _is_loopback(name: str) -> bool:
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return name == "localhost"


async def _answer(send: _Send, status: int, text: str) -> None:
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": text.encode(errors="replace")})
