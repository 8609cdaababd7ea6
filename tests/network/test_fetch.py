"""Known weights, from a server on this machine that is slow, breaks off, lies, or is not there."""

from __future__ import annotations

import hashlib
import io
import os
import re
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import torch

import seemore_fast
from seemore_fast.errors import CheckpointError
from seemore_fast.network import reference, weights
from seemore_fast.network.weights import catalogue, fetch
from tests.support.small import SMALL
from tests.support.warm import python


class Server(ThreadingHTTPServer):
    """Serves ``content``; ``faults`` are the ways in which the next answers go wrong, one each."""

    daemon_threads = True

    def __init__(self, content: bytes):
        super().__init__(("127.0.0.1", 0), Answer)
        self.content = content
        self.faults: list[str] = []
        self.ranges: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/files/net.pth"


class Answer(BaseHTTPRequestHandler):
    server: Server

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        server, fault = self.server, self.server.faults.pop(0) if self.server.faults else ""
        server.ranges.append(self.headers["Range"])
        if fault == "gone":
            return self.send_error(404)
        if fault == "page":
            return self._send(200, b"<html>please log in</html>", "text/html; charset=utf-8")
        first = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if fault == "no ranges":
            first = 0
        if first >= len(server.content):
            return self.send_error(416)
        if fault == "without end":
            return self._send_on()
        rest = server.content[first:]
        sent = rest[: len(rest) // 2] if fault == "breaks off" else rest
        return self._send(206 if first else 200, sent, "application/octet-stream", len(rest))

    def _send(self, status: int, body: bytes, kind: str, length: int | None = None) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        self.end_headers()
        self.wfile.write(body)

    def _send_on(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.end_headers()  # no length
        with suppress(ConnectionError):
            while True:
                self.wfile.write(bytes(1 << 16))


def checkpoint_bytes(seed: int = 0) -> bytes:
    torch.manual_seed(seed)
    file = io.BytesIO()
    torch.save({"params": reference.SeemoRe(**SMALL).state_dict()}, file)
    return file.getvalue()


@pytest.fixture
def server() -> Iterator[Server]:
    with Server(checkpoint_bytes()) as running:
        threading.Thread(target=running.serve_forever, daemon=True).start()
        yield running
        running.shutdown()


@pytest.fixture(autouse=True)
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The user's folders, as platformdirs finds them, in a place of the test's own."""
    for kind in ("cache", "data", "config"):
        monkeypatch.setattr(f"platformdirs.user_{kind}_dir", lambda *_, kind=kind, **__: str(tmp_path / kind))
    monkeypatch.delenv("SEEMORE_WEIGHTS_URL", raising=False)
    return tmp_path


@pytest.fixture
def entry(server: Server) -> catalogue.Known:
    return catalogue.Known("mine/small", dict(SMALL), [server.url], licence="CC0")


def fault_of(entry: catalogue.Known) -> str:
    with pytest.raises(CheckpointError) as caught:
        fetch.fetch(entry)
    message = str(caught.value)
    assert entry.name in message
    assert "\n" not in message
    return message


def test_fetched_once_then_offline(server, entry):
    file = fetch.fetch(entry)
    assert fetch.sha256(entry) == hashlib.sha256(server.content).hexdigest()
    server.faults = ["gone"]
    assert fetch.fetch(entry) == file
    assert len(server.ranges) == 1
    network = seemore_fast.load(file)
    want = torch.load(io.BytesIO(server.content), weights_only=True)["params"]
    assert network.config["scale"] == SMALL["scale"]
    assert all(torch.equal(value, want[key]) for key, value in network.state_dict().items())
    assert {path.suffix for path in file.parent.iterdir()} == {".safetensors", ".lock"}


def test_load_takes_the_name_from_the_users_table(server, folders):
    table = catalogue.users_table()
    table.parent.mkdir()
    config = ", ".join(f"{key}: {value}" for key, value in SMALL.items())
    table.write_text(f"mine/small: {{places: ['{server.url}'], config: {{{config}}}}}\n")
    assert seemore_fast.load("mine/small").scale == 2
    assert set(catalogue.known()) > {"mine/small", "official/t-x4"}


@pytest.mark.parametrize(
    ("faults", "ranges"),
    [(["breaks off"], 2), (["breaks off", "breaks off"], 3), (["breaks off", "no ranges"], 2)],
)
def test_broken_off_it_goes_on(server, entry, faults, ranges):
    server.faults = faults
    assert seemore_fast.load(fetch.fetch(entry)).scale == 2
    assert len(server.ranges) == ranges
    held = int(server.ranges[1].removeprefix("bytes=").removesuffix("-"))
    assert len(server.content) // 2 - 4096 < held <= len(server.content) // 2


def test_broken_off_for_good_the_next_run_goes_on(server, entry):
    server.faults = ["breaks off"] * 4
    assert "run it again to go on" in fault_of(entry)
    part = fetch.cached(entry).with_suffix(".part")
    held = part.stat().st_size
    assert 0 < held < len(server.content)
    fetch.fetch(entry)
    assert server.ranges[-1] == f"bytes={held}-"
    assert not part.exists()


def test_killed_between_download_and_check(server, entry):
    part = fetch.cached(entry).with_suffix(".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(server.content)
    assert fetch.fetch(entry).is_file()


@pytest.mark.parametrize(("fault", "said"), [("gone", "HTTP 404"), ("page", "a web page instead")])
def test_what_is_not_there(server, entry, fault, said):
    server.faults = [fault]
    message = fault_of(entry)
    assert said in message
    assert server.url in message  # to download by hand
    assert not fetch.cached(entry).exists()


def test_a_server_that_sends_without_end(server, entry, monkeypatch):
    monkeypatch.setattr(fetch, "_LARGEST", 1 << 20)
    server.faults = ["without end"]
    assert "more than 1048576 bytes" in fault_of(entry)
    assert fetch.fetch(entry).is_file()  # from the beginning


def test_the_next_place_is_tried(server, entry):
    server.faults = ["gone"]
    twice = catalogue.Known(entry.name, entry.config, [server.url, server.url])
    assert fetch.fetch(twice).is_file()


def test_no_network(server, entry):
    server.shutdown()
    server.server_close()
    assert "127.0.0.1" in (message := fault_of(entry))
    assert "no connection" in message


def test_a_silent_server(server, entry, monkeypatch):
    monkeypatch.setattr(fetch, "TIMEOUT", 0.2)
    released = threading.Event()
    monkeypatch.setattr(Answer, "do_GET", lambda self: released.wait(30))
    try:
        assert "no answer for 0.2 seconds" in fault_of(entry)
    finally:
        released.set()


def test_another_file_under_the_same_name_is_refused(server, entry):
    fetch.fetch(entry).unlink()
    server.content = checkpoint_bytes(seed=1)
    assert "has changed" in fault_of(entry)
    assert not fetch.cached(entry).exists()


def test_a_changed_file_in_the_cache_is_refused(entry):
    file = fetch.fetch(entry)
    file.write_bytes(file.read_bytes() + b" ")
    assert "delete it to fetch" in fault_of(entry)


@pytest.mark.parametrize("content", [b"", b"no weights", checkpoint_bytes()[:2000]])
def test_what_holds_no_weights(server, entry, content):
    server.content = content
    message = fault_of(entry)
    assert "416" in message or server.url in message
    assert not fetch.cached(entry).exists()


def test_another_network_is_refused(server, entry):
    other = catalogue.Known(entry.name, {**SMALL, "scale": 3}, [server.url])
    assert "contradicts the weights" in fault_of(other)


def test_a_read_only_cache(entry, folders):
    (folders / "cache").write_text("a file where the folder should be")
    assert "cannot be kept in" in fault_of(entry)


def test_a_mirror(server, entry, monkeypatch):
    elsewhere = catalogue.Known(entry.name, entry.config, ["https://example.invalid/x/net.pth"])
    monkeypatch.setenv("SEEMORE_WEIGHTS_URL", server.url.rpartition("/")[0])
    assert fetch.fetch(elsewhere).is_file()


@pytest.mark.parametrize(
    "address", ["nonsense", "file:///tmp", "http://", "http://[a", "example.invalid/weights"]
)
def test_a_mirror_that_is_no_address(entry, monkeypatch, address):
    monkeypatch.setenv("SEEMORE_WEIGHTS_URL", address)
    with pytest.raises(
        CheckpointError, match=f"^SEEMORE_WEIGHTS_URL={re.escape(address)}: must begin with http"
    ):
        fetch.fetch(entry)


def test_two_processes_at_once(server, entry, folders):
    """One fetches, the other waits and takes what is there."""
    code = (
        "import sys, platformdirs\n"
        "for kind in ('cache', 'data'):\n"
        "    setattr(platformdirs, f'user_{kind}_dir', lambda *_, kind=kind, **__: f'{sys.argv[1]}/{kind}')\n"
        "from seemore_fast.network.weights import catalogue, fetch\n"
        f"print(fetch.fetch(catalogue.Known('mine/small', {SMALL!r}, [sys.argv[2]])))\n"
    )
    command = [*python(), "-c", code, str(folders), server.url]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ) for _ in range(2)]
    found = {process.communicate(timeout=120)[0] for process in both}
    assert [process.returncode for process in both] == [0, 0]
    assert found == {f"{fetch.cached(entry)}\n"}
    assert len(server.ranges) == 1


def test_what_lies_on_the_authors_drive():
    with pytest.raises(CheckpointError, match=r"by hand, from .*drive.*--model FILE"):
        weights.find("official/l-x4")


def test_the_table_holds_the_published_variants():
    known = catalogue.known()
    assert {f"official/{size}-x{scale}" for size in "tbl" for scale in (2, 3, 4)} == set(known)
    for name, entry in known.items():
        assert reference.SeemoRe(**entry.config).scale == int(name[-1])
        assert all(place.endswith(".pth") for place in entry.places)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[", "cannot be read"),
        ("- a", "must map names"),
        ("a: 3", "an entry has"),
        ("a: {color: red}", "an entry has"),
        ("../a: {variant: t-x4}", "words between slashes"),
        ("a: {variant: t-x4, places: [file:///etc/passwd]}", "http or https"),
        ("a: {variant: t-x4, places: ['http://[a/b.pth', 3]}", "http or https"),
        ("a: {variant: t-x9}", "unknown variant"),
        ("a: {places: ['https://example.invalid/a.pth']}", "either variant or config"),
        ("a: {variant: t-x4, set5: good}", "could not convert"),
    ],
)
def test_a_users_table_that_is_wrong(text, said):
    table = catalogue.users_table()
    table.parent.mkdir()
    table.write_text(text)
    with pytest.raises(CheckpointError, match=said) as caught:
        catalogue.known()
    assert str(table) in str(caught.value)


@pytest.mark.parametrize("name", weights.names())
def test_the_short_cards_say_what_the_model_cards_say(name):
    card = weights.path(name).with_suffix(".md").read_text()
    assert f"**{weights.CARDS[name].set5:.2f} dB" in card
    assert weights.CARDS[name].licence in card
