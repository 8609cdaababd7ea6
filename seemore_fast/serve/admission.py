"""Who may come in: requests with a token, as many as the queue holds, so many of one client.

Whoever is refused is refused before his picture is read, so that a crowd costs no memory.
"""

from __future__ import annotations

import hmac
import json
from collections import Counter
from collections.abc import Awaitable, Callable, MutableMapping
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
        headers = [(b"content-type", b"application/json"), (b"connection", b"close")]
        if status in (429, 503):
            headers.append((b"retry-after", b"5"))
        if status == 401:
            headers.append((b"www-authenticate", b"Bearer"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps({"detail": text}).encode()})


def _is_open(path: str) -> bool:
    return path in OPEN or path.startswith(f"{PARTS}/")
