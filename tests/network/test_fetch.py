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
import safetensors.torch
import torch

import seemore_fast
from seemore_fast.errors import CheckpointError
from seemore_fast.network import reference, weights
from seemore_fast.network.weights import catalogue, download, fetch
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
        if fault == "junk":
            return self._send(200, b'{"error": "quota exceeded"}', "application/json")
        first = int((self.headers["Range"] or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if fault == "no ranges":
            first = 0
        if first >= len(server.content):
            return self.send_error(416)
        if fault == "without end":
            return self._send_on()
        if fault == "elsewhere":
            first //= 2
        rest = server.content[first:]
        if fault == "in chunks, breaks off":
            return self._send_chunk(rest[: len(rest) // 2])
        sent = rest[: len(rest) // 2] if fault in ("breaks off", "a part") else rest
        length = len(sent) if fault == "a part" else len(rest)
        whole = len(server.content)
        range = f"bytes {first}-{first + length - 1}/{whole}" if first or fault == "a part" else ""
        return self._send(206 if range else 200, sent, "application/octet-stream", length, range)

    def _send(self, status: int, body: bytes, kind: str, length: int | None = None, range: str = "") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        if range:
            self.send_header("Content-Range", range)
        self.end_headers()
        self.wfile.write(body)

    def _send_chunk(self, body: bytes) -> None:
        """The first of several, that never come."""
        self.protocol_version = "HTTP/1.1"
        self.send_response(200)
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        self.wfile.write(f"{len(body):x}\r\n".encode() + body + b"\r\n")
        self.close_connection = True

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
    [
        (["breaks off"], 2),
        (["breaks off", "breaks off"], 3),
        (["breaks off", "no ranges"], 2),
        (["breaks off", "elsewhere"], 3),
        (["in chunks, breaks off"], 2),
        (["a part"], 2),
    ],
)
def test_broken_off_it_goes_on(server, entry, faults, ranges):
    server.faults = faults
    assert seemore_fast.load(fetch.fetch(entry)).scale == 2
    assert len(server.ranges) == ranges
    held = int(server.ranges[1].removeprefix("bytes=").removesuffix("-")) + 4096  # the last chunk comes twice
    assert len(server.content) // 2 - 4096 < held <= len(server.content) // 2


def test_broken_off_for_good_the_next_run_goes_on(server, entry):
    server.faults = ["breaks off"] * 4
    assert "run it again to go on" in fault_of(entry)
    part = fetch.cached(entry).with_suffix(".part")
    held = part.stat().st_size
    assert 0 < held < len(server.content)
    fetch.fetch(entry)
    assert server.ranges[-1] == f"bytes={held - 4096}-"
    assert not part.exists()


def remains(entry: catalogue.Known, content: bytes) -> None:
    """What an earlier run has left."""
    part = fetch.cached(entry).with_suffix(".part")
    part.parent.mkdir(parents=True)
    part.write_bytes(content)


def test_killed_between_download_and_check(server, entry):
    remains(entry, server.content)
    assert fetch.fetch(entry).is_file()
    assert len(server.ranges) == 1


@pytest.mark.parametrize(
    "before",
    [
        checkpoint_bytes(seed=1)[:20000],
        checkpoint_bytes(seed=1),
        checkpoint_bytes() + b"something behind it",
        checkpoint_bytes() + bytes(9000),
    ],
)
def test_what_is_left_of_another_file_is_not_mixed_in(server, entry, before):
    remains(entry, before)
    fetch.fetch(entry)
    assert fetch.sha256(entry) == hashlib.sha256(server.content).hexdigest()


def test_a_place_that_breaks_off_and_one_with_another_file(server, entry):
    with Server(checkpoint_bytes(seed=1)) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        server.faults = ["breaks off"] * 4
        fetch.fetch(catalogue.Known(entry.name, entry.config, [server.url, other.url]))
        other.shutdown()
    assert fetch.sha256(entry) == hashlib.sha256(other.content).hexdigest()


def test_what_carries_no_checksums_is_fetched_from_its_beginning(server, entry):
    """Two networks that are equal where the first broke off: nothing in a mixture would tell."""
    state = reference.SeemoRe(**SMALL).state_dict()
    server.content = safetensors.torch.save({**state, min(state): state[min(state)] + 1})
    remains(entry, safetensors.torch.save(state)[:-5000])
    fetch.fetch(entry)
    assert server.ranges == [None]
    assert fetch.sha256(entry) == hashlib.sha256(server.content).hexdigest()


@pytest.mark.parametrize("place", ["data", "a local name", "a method"])
def test_a_flipped_bit_is_found(server, entry, place):
    """By the archive's checksums, or what its reader stumbles over; the next try is from the beginning."""
    whole = server.content
    names = [found.start() for found in re.finditer(b"PK\3\4", whole)]
    methods = [found.start() + 10 for found in re.finditer(b"PK\1\2", whole)]
    at, bit = {
        "data": (len(whole) // 2, 1),
        "a local name": (names[len(names) // 2] + 32, 128),
        "a method": (methods[len(methods) // 2], 8),
    }[place]
    server.content = whole[:at] + bytes([whole[at] ^ bit]) + whole[at + 1 :]
    assert "damaged" in fault_of(entry)
    server.content = whole
    assert fetch.fetch(entry).is_file()


@pytest.mark.parametrize(("fault", "said"), [("gone", "HTTP 404"), ("page", "a web page instead")])
def test_what_is_not_there(server, entry, fault, said):
    server.faults = [fault]
    message = fault_of(entry)
    assert said in message
    assert server.url in message  # to download by hand
    assert not fetch.cached(entry).exists()


def test_a_server_that_sends_without_end(server, entry, monkeypatch):
    monkeypatch.setattr(download, "_LARGEST", 1 << 20)
    server.faults = ["without end"]
    assert "more than 1048576 bytes" in fault_of(entry)
    assert fetch.fetch(entry).is_file()  # from the beginning


@pytest.mark.parametrize("fault", ["gone", "page", "junk"])
def test_the_next_place_is_tried(server, entry, fault):
    server.faults = [fault]
    twice = catalogue.Known(entry.name, entry.config, [server.url, server.url])
    assert fetch.fetch(twice).is_file()


def test_no_network(server, entry):
    server.shutdown()
    server.server_close()
    assert "127.0.0.1" in (message := fault_of(entry))
    assert "no connection" in message


def test_a_silent_server(server, entry, monkeypatch):
    monkeypatch.setattr(download, "TIMEOUT", 0.2)
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


def test_what_is_remembered_may_be_lost(server, entry, folders):
    """With the cache alone, nothing is fetched; what is there is remembered again."""
    file = fetch.fetch(entry)
    (folders / "data" / "weights.json").unlink()
    assert fetch.fetch(entry) == file
    assert len(server.ranges) == 1
    assert fetch.sha256(entry) == hashlib.sha256(server.content).hexdigest()


@pytest.mark.parametrize("text", ["{bad", "[]", '{"a": 5}', '{"a": {"fetched": 5}}', "[" * 100_000])
def test_a_record_that_cannot_be_read_is_kept(server, entry, folders, text):
    """It may name files of years: nothing is written over it."""
    record = folders / "data" / "weights.json"
    record.parent.mkdir()
    record.write_text(text)
    with pytest.raises(CheckpointError, match=re.escape(str(record)) + ": cannot be read as the record"):
        fetch.fetch(entry)
    assert record.read_text() == text
    assert not server.ranges


def test_a_record_that_cannot_be_written(server, entry, folders, caplog):
    (folders / "data").write_text("a file where the folder should be")
    file = fetch.fetch(entry)
    assert "would not be noticed" in caplog.text
    assert fetch.fetch(entry) == file
    assert len(server.ranges) == 1


def test_a_cache_that_others_filled_is_only_read(entry, monkeypatch):
    file = fetch.fetch(entry)
    monkeypatch.setattr(fetch, "FileLock", None)
    assert fetch.fetch(entry) == file


@pytest.mark.parametrize("change", [{"use_shuffle": True}, {"scale": 3}])
def test_an_entry_that_has_changed_since(entry, change):
    fetch.fetch(entry)
    changed = catalogue.Known(entry.name, {**entry.config, **change}, entry.places)
    assert "another configuration" in fault_of(changed)


def test_a_write_that_fails_keeps_the_download(server, entry, monkeypatch):
    def full(*_: object) -> None:
        raise CheckpointError(f"{fetch.cached(entry)}: cannot be written (No space left on device)")

    with monkeypatch.context() as patched:
        patched.setattr(fetch.checkpoint, "save", full)
        with pytest.raises(CheckpointError, match="No space left"):
            fetch.fetch(entry)
    fetch.fetch(entry)
    assert server.ranges[1] == f"bytes={len(server.content) - 4096}-"


def test_passwords_are_not_shown(server, entry):
    secret = server.url.replace("//", "//user:hunter2@")
    with_secret = catalogue.Known(entry.name, entry.config, [secret])
    server.faults = ["gone"]
    assert "hunter2" not in fault_of(with_secret)
    assert b"hunter2" not in fetch.fetch(with_secret).read_bytes()


@pytest.mark.parametrize("mirror", ["user:hunter2@example.invalid/w", "ftp://user:hun/ter2@example.invalid"])
def test_a_mirrors_password_is_not_shown(entry, monkeypatch, mirror):
    monkeypatch.setenv("SEEMORE_WEIGHTS_URL", mirror)
    with pytest.raises(CheckpointError, match=r"^SEEMORE_WEIGHTS_URL=example\.invalid.*must begin"):
        fetch.fetch(entry)


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
    "address",
    ["nonsense", "file:///tmp", "http://", "http://[a", "example.invalid/weights", "http://a/b?token=3"],
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
        ("a: {variant: t-x4, places: ['http://example.invalid']}", "http or https"),
        ("a: {variant: t-x4, places: ['http://example.invalid:99999/a.pth']}", "http or https"),
        ("a: {variant: t-x9}", "unknown variant"),
        ("a: {places: ['https://example.invalid/a.pth']}", "either variant or config"),
        ("a: {variant: t-x4}", "needs places"),
        ("a: {variant: t-x4, set5: good}", "a number, of dB"),
        (f"a: {{variant: t-x4, set5: {'9' * 400}}}", "a number, of dB"),
        ("a: {config: {num_layers: 6}}", "config needs scale"),
        ("a: {config: {scale: 4, 1: 2}}", "config needs scale"),
        ("a: {config: scale}", "config needs scale"),
        ("a: {licence: 2024-02-30}", "cannot be read"),
        ("a: !!int abc", "cannot be read"),
        ("a:\n\t- b", "line 2: "),
        ('"a\\0b": {variant: t-x4}', "printable"),
        ('a: {variant: t-x4, licence: "\\e[31m"}', "printable"),
        (f"{'a' * 300}: {{variant: t-x4}}", "100 bytes"),
        (f"{'字' * 100}: {{variant: t-x4}}", "100 bytes"),
        ("a: {variant: t-x4, by_hand: ~}", "needs places"),
        ("t-x4: {variant: t-x2, by_hand: here}", "a name of bundled weights"),
    ],
)
def test_a_users_table_that_is_wrong(text, said):
    table = catalogue.users_table()
    table.parent.mkdir()
    table.write_text(text)
    with pytest.raises(CheckpointError, match=said) as caught:
        catalogue.known()
    assert str(table) in str(caught.value)


def test_a_users_table_with_nothing_in_it():
    table = catalogue.users_table()
    table.parent.mkdir()
    table.write_text("# names of mine\n")
    assert "official/t-x4" in catalogue.known()


@pytest.mark.parametrize("name", weights.names())
def test_the_short_cards_say_what_the_model_cards_say(name):
    card = weights.path(name).with_suffix(".md").read_text()
    assert f"**{weights.CARDS[name].set5:.2f} dB" in card
    assert weights.CARDS[name].licence in card
