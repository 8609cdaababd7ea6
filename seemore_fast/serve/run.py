"""Runs the service until it is told to stop, and then until what is inside is finished (uvicorn)."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from seemore_fast.errors import SeemoreError
from seemore_fast.system.optional import need

with need("the service", "serve"):
    import uvicorn


def run(app: Any, host: str, port: int, ready: Callable[[], None] = lambda: None) -> None:
    """Serves ``app``; ``ready()`` is called once the port is taken.

    Raises SeemoreError where ``host`` and ``port`` cannot be listened on.
    """
    try:
        listening = socket.create_server((host, port), backlog=512)
    except OSError as error:
        why = error.strerror or os.strerror(error.errno or 0)
        raise SeemoreError(f"cannot listen on {host}, port {port}: {why}") from None
    with listening:
        ready()
        uvicorn.Server(uvicorn.Config(app, log_level="warning", server_header=False)).run([listening])
