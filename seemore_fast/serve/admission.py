"""Who may come in: requests with a token, as many as the queue holds, so many of one client.

Whoever is refused is refused before his picture is kept, so that a crowd costs no memory.  What he sends is
read all the same, and dropped: a connection closed upon unread data takes the answer with it.
"""

from __future__ import annotations

import asyncio
import hmac
import json
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from typing import Any

_Message = MutableMapping[str, Any]
_Receive = Callable[[], Awaitable[_Message]]
_Send = Callable[[_Message], Awaitable[None]]

HEALTH = "/health"
PAGE, SCHEMA, PARTS = "/docs", "/openapi.json", "/docs-files"
"""The page that tells of the service, and what it is made of."""
OPEN = (HEALTH, PAGE, SCHEMA, PARTS)
"""The paths that need no token: nothing secret stands there, and browsers open pages without one."""
COUNTED = "/upscale"
"""The path that the queue is for."""

_DROPPED = 32 << 20  # bytes that are read of a request after its answer is known
_SECONDS = 10.0  # and for so long


class Admission:
    """ASGI middleware: 401 without one of ``tokens`` (none: everybody may), 503 while ``most`` requests are
    inside, 429 while ``per_client`` of this client's are (its token, or else its address)."""

    def __init__(self, app: Any, tokens: tuple[str, ...], most: int, per_client: int):
        self.app = app
        self._tokens = [token.encode() for token in tokens]
        self._most, self._per_client = most, per_client
        self.inside: Counter[bytes] = Counter()
        self.refused: Counter[int] = Counter()

    @property
    def count(self) -> int:
        """Requests inside, at work or waiting."""
        return self.inside.total()

    async def __call__(self, scope: _Message, receive: _Receive, send: _Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        scope["admission"] = self
        receive, send = _read_to_the_end(scope, receive, send)
        client = (scope.get("client") or ("",))[0].encode()
        if self._tokens and not _is_open(scope["path"]):
            given = dict(scope["headers"]).get(b"authorization", b"").removeprefix(b"Bearer ")
            if not sum(hmac.compare_digest(given, token) for token in self._tokens):  # all: in equal time
                return await self._refuse(send, 401, "a token is needed: Authorization: Bearer TOKEN")
            client = given
        if scope["path"] != COUNTED:
            return await self.app(scope, receive, send)
        if self.count >= self._most:
            return await self._refuse(send, 503, "the queue is full; try again later")
        if self.inside[client] >= self._per_client:
            return await self._refuse(send, 429, f"you have {self._per_client} pictures in the queue already")
        self.inside[client] += 1
        try:
            await self.app(scope, receive, send)
        finally:  # once the answer is with the client, or he has gone
            self.inside[client] -= 1
            if not self.inside[client]:
                del self.inside[client]

    async def _refuse(self, send: _Send, status: int, text: str) -> None:
        self.refused[status] += 1
        headers = [(b"content-type", b"application/json")]
        if status in (429, 503):
            headers.append((b"retry-after", b"5"))
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps({"detail": text}).encode()})


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(f"{PARTS}/")


def _read_to_the_end(scope: _Message, receive: _Receive, send: _Send) -> tuple[_Receive, _Send]:
    """``receive`` and ``send`` of which the second first reads, and drops, what the request still has, within
    bounds of size and time, beyond which the connection is closed.  Who asks before he sends (Expect:
    100-continue) has not sent anything yet."""
    asks = any(name == b"expect" for name, _ in scope["headers"])
    ended = False

    async def receiving() -> _Message:
        nonlocal ended, asks
        asks = False  # the server tells him to go on
        message = await receive()
        ended = ended or message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def drop() -> None:
        size = 0
        while not ended and size <= _DROPPED:
            size += len((await receiving()).get("body", b""))

    async def sending(message: _Message) -> None:
        if message["type"] == "http.response.start" and not ended:
            if not asks:
                with suppress(asyncio.TimeoutError):
                    await asyncio.wait_for(drop(), _SECONDS)
            if not ended:
                message = {**message, "headers": [*message["headers"], (b"connection", b"close")]}
        await send(message)

    return receiving, sending
