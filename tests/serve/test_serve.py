"""The service: what goes in and comes out, limits, tokens, foreign pages, overload, its end."""

from __future__ import annotations

import http.client
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

pytest.importorskip("prometheus_client", reason="needs pip install 'seemore-fast[serve]'")

from fastapi.testclient import TestClient

from seemore_fast import SeemoRe, Upscaler
from seemore_fast.image import Image, read, write
from seemore_fast.network import checkpoint
from seemore_fast.serve.app import Limits, service
from seemore_fast.upscale.size import WISHES
from tests.support.small import SMALL
from tests.support.warm import python
from tests.upscale.test_upscale import noise


@pytest.fixture(scope="module")
def upscalers() -> dict[str, Upscaler]:
    return {"small": Upscaler(SeemoRe(**SMALL).eval()), "t-x4": Upscaler("t-x4")}


def client(upscalers: dict[str, Upscaler], *arguments: Any, **more: Any) -> TestClient:
    return TestClient(service(upscalers, *arguments, **more), base_url="http://127.0.0.1:8000")


def encoded(pixels: np.ndarray, suffix: str = ".png") -> bytes:
    with tempfile.TemporaryDirectory() as made:
        write(Path(made, f"a{suffix}"), Image(pixels))
        return Path(made, f"a{suffix}").read_bytes()


def left_over() -> list[Path]:
    return list(Path(tempfile.gettempdir()).glob("seemore-fast-*/picture"))


def test_a_picture_goes_in_and_comes_out(upscalers: dict[str, Upscaler]) -> None:
    before = left_over()
    web = client(upscalers)
    for channels, dtype in [(3, np.uint8), (4, np.uint8), (1, np.uint16)]:
        pixels = noise(20, 30, channels).astype(dtype)
        answer = web.post("/upscale", content=encoded(pixels))
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"] == "image/png"
        found = read("a.png", data=answer.content).pixels
        np.testing.assert_array_equal(found, upscalers["small"].up(pixels))
    jpeg = encoded(noise(20, 30, 3), ".jpg")
    answer = web.post("/upscale?model=t-x4&format=webp&longest=100", content=jpeg)
    assert answer.headers["content-type"] == "image/webp"
    assert read("a", data=answer.content).pixels.shape == (67, 100, 3)
    answer = web.post("/upscale?fit=50x50", content=jpeg)
    assert answer.headers["content-type"] == "image/jpeg"
    assert read("a", data=answer.content).pixels.shape == (33, 50, 3)
    assert left_over() == before


@pytest.mark.parametrize(
    ("query", "body", "status", "said"),
    [
        ("", b"a shopping list", 422, "not a PNG"),
        ("", b"", 422, "the file is empty"),
        ("", "large", 422, "40x30 is over the limit of 0.001 megapixels; send a smaller one"),
        ("", "heavy", 413, "over the limit of 0.01 MB"),
        ("?model=no", "fine", 422, "model must be one of small, t-x4"),
        ("?format=psd", "fine", 422, "format must be one of png"),
        ("?format=jpg", "transparent", 422, "JPEG has no transparency"),
        ("?width=5&fit=3x3", "fine", 422, "got width and fit"),
        ("?fit=3", "fine", 422, "fit takes WIDTHxHEIGHT"),
        ("?width=1000", "fine", 422, "are over the limit of 0.1 megapixels"),
        ("?widht=9", "fine", 422, "widht"),
        ("?quality=0", "fine", 422, "greater than or equal to 1"),
    ],
)
def test_what_is_refused(
    upscalers: dict[str, Upscaler], query: str, body: bytes | str, status: int, said: str
) -> None:
    bodies = {
        "fine": lambda: encoded(noise(10, 10, 3)),
        "large": lambda: encoded(np.zeros((30, 40, 3), np.uint8)),
        "heavy": lambda: bytes(10_001),
        "transparent": lambda: encoded(noise(10, 10, 4)),
    }
    before = left_over()
    content = bodies[body]() if isinstance(body, str) else body
    web = client(upscalers, Limits(bytes=10_000, pixels=1000, pixels_out=100_000))
    answer = web.post(f"/upscale{query}", content=content)
    assert answer.status_code == status
    assert said in answer.text
    assert "/tmp" not in answer.text
    assert left_over() == before


def test_health_metrics_and_the_page(upscalers: dict[str, Upscaler]) -> None:
    web = client(upscalers)
    assert web.get("/health").json() == {"status": "ok", "models": ["small", "t-x4"], "inside": 0}
    web.post("/upscale", content=encoded(noise(20, 30, 3)))
    web.post("/upscale", content=b"nothing")
    text = web.get("/metrics").text
    for line in (
        'seemore_requests_total{status="200"} 1.0',
        'seemore_requests_total{status="422"} 1.0',
        'seemore_pixels_total{direction="in"} 600.0',
        'seemore_pixels_total{direction="out"} 2400.0',
        "seemore_seconds_count 1.0",
        "seemore_inside 0.0",
    ):
        assert line in text.splitlines()
    post = web.get("/openapi.json").json()["paths"]["/upscale"]["post"]
    assert {p["name"] for p in post["parameters"]} >= {"model", "longest", "format", "quality"}
    asked = {p["name"]: p for p in post["parameters"]}
    assert {wish.name for wish in WISHES} <= asked.keys()
    assert "longer side" in asked["longest"]["description"]


def test_the_page_needs_nothing_from_elsewhere_and_no_token(upscalers: dict[str, Upscaler]) -> None:
    web = client(upscalers, tokens=("first",))
    text = web.get("/docs").text
    parts = re.findall(r'(?:src|href)="([^"]+)"', text)
    assert len(parts) >= 3
    for part in [*parts, "/openapi.json"]:
        answer = web.get(part)  # no address but ours
        assert part.startswith("/")
        assert answer.status_code == 200, part
        assert answer.content
    assert "://" not in text.replace("window.location", "").replace("http://www.w3.org", "")
    assert "HTTPBearer" in web.get("/openapi.json").json()["components"]["securitySchemes"]
    for path in ("/docs-files/../metrics", "/docs-files/..%2f..%2fapp.py", "/metrics"):
        assert web.get(path).status_code in (401, 404)


def test_tokens_and_foreign_pages(upscalers: dict[str, Upscaler]) -> None:
    web, body = client(upscalers, tokens=("first", "second")), encoded(noise(9, 9, 3))
    for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": "first "}):
        answer = web.post("/upscale", content=body, headers=headers)
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
    assert web.post("/upscale", content=body, headers={"Authorization": "Bearer second"}).status_code == 200
    assert web.get("/health").status_code == 200
    assert web.get("/metrics").status_code == 401
    web = client(upscalers)
    page = {"Origin": "https://example.com"}
    answer = web.post("/upscale", content=body, headers=page)
    assert (answer.status_code, "access-control-allow-origin" in answer.headers) == (403, False)
    assert web.post("/upscale", content=body, headers={"Origin": "http://[a"}).status_code == 403
    assert web.get("/health", headers={"Host": "example.com"}).status_code == 403
    web = client(upscalers, origins=("https://example.com",), tokens=("first",))
    asked = {
        **page,
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization",
    }
    assert web.options("/upscale", headers={**page, **asked}).status_code == 200
    answer = web.post("/upscale", content=body, headers={**page, "Authorization": "Bearer first"})
    assert answer.headers["access-control-allow-origin"] == "https://example.com"


class Served:
    """The command in a process of its own; ``fresh``: in the one that ``process`` is."""

    def __init__(self, model: Path, *more: str, fresh: bool = False):
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            self.port = free.getsockname()[1]
        command = ["serve", "--model", str(model), "--port", str(self.port), "--threads", "1", *more]
        self.process = subprocess.Popen(
            [*([sys.executable] if fresh else python()), "-m", "seemore_fast.cli", *command],
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stderr is not None
        assert f"http://127.0.0.1:{self.port}/docs" in self.process.stderr.readline()

    def post(self, body: bytes, query: str = "") -> tuple[int, bytes]:
        with closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)) as connection:
            connection.request("POST", f"/upscale{query}", body)
            answer = connection.getresponse()
            return answer.status, answer.read()


@pytest.fixture
def model(tmp_path: Path) -> Path:
    checkpoint.save(SeemoRe(**SMALL), tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def test_a_hundred_clients(model: Path) -> None:
    """Every request is answered: with its own picture, or with 503 while the queue is full."""
    served = Served(model, "--queue", "30", fresh=True)  # whose memory is looked at
    try:
        upscaler = Upscaler(model)
        pictures = [noise(40, 40, 3, seed=seed) for seed in range(10)]
        bodies = [encoded(picture) for picture in pictures]
        expected = [upscaler.up(picture) for picture in pictures]
        served.post(bodies[0])
        memory = psutil.Process(served.process.pid)
        start, most = memory.memory_info().rss, 0
        answers: Counter[int] = Counter()
        wrong: list[str] = []
        lock, end = threading.Lock(), time.monotonic() + 8

        def work(seed: int) -> None:
            while time.monotonic() < end:
                try:
                    status, content = served.post(bodies[seed % 10])
                    same = status != 200 or np.array_equal(
                        read("a", data=content).pixels, expected[seed % 10]
                    )
                except Exception as error:
                    status, same = 0, False
                    wrong.append(repr(error))
                with lock:
                    answers[status] += 1
                    if not same:
                        wrong.append(f"another picture, {status}")
                if status == 503:
                    time.sleep(0.05)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(100)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            most = max(most, memory.memory_info().rss)
            time.sleep(0.05)
        assert not wrong
        assert set(answers) == {200, 503}
        assert answers[200] > 30
        assert most - start < 150e6
        with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)) as connection:
            connection.request("GET", "/metrics")
            text = connection.getresponse().read().decode()
        counted = {int(s): float(n) for s, n in re.findall(r'requests_total\{status="(\d+)"\} (\S+)', text)}
        assert counted == {200: answers[200] + 1, 503: answers[503]}
        assert "seemore_inside 0.0" in text
    finally:
        served.process.kill()
        served.process.wait()


@pytest.mark.parametrize(("size", "status"), [(3_000_000, 401), (30_000_000, 413), (3_000_000, 422)])
def test_who_is_refused_hears_so(model: Path, tmp_path: Path, size: int, status: int) -> None:
    """However much he sends: a connection that is closed upon unread data takes the answer with it."""
    (tmp_path / "tokens").write_text("first\n")
    served = Served(model, "--tokens", str(tmp_path / "tokens"))
    token = {} if status == 401 else {"Authorization": "Bearer first"}
    path = "/upscale?model=no" if status == 422 else "/upscale"
    try:
        for _ in range(5):
            with closing(http.client.HTTPConnection("127.0.0.1", served.port, timeout=60)) as connection:
                connection.request("POST", path, bytes(size), token)
                answer = connection.getresponse()
                assert (answer.status, b"detail" in answer.read()) == (status, True)
                connection.request("GET", "/health")  # on the same connection
                assert connection.getresponse().status == 200
        # Who asks first is told at once, and sends nothing.
        with closing(socket.create_connection(("127.0.0.1", served.port), timeout=60)) as line:
            head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n"
            more = "".join(f"{name}: {value}\r\n" for name, value in token.items())
            line.sendall(f"{head}{more}Expect: 100-continue\r\n\r\n".encode())
            assert line.recv(100).startswith(f"HTTP/1.1 {status} ".encode())
    finally:
        served.process.kill()
        served.process.wait()


def test_one_client_has_his_share(upscalers: dict[str, Upscaler]) -> None:
    hold, entered = threading.Event(), threading.Event()

    class Slow(Upscaler):
        def stream(self, *arguments: Any, **more: Any) -> None:
            entered.set()
            hold.wait(30)
            super().stream(*arguments, **more)

    slow = {"slow": Slow(SeemoRe(**SMALL).eval())}
    with client(slow, Limits(queue=5, per_client=1), ("a", "b")) as web:
        body, results = encoded(noise(9, 9, 3)), []

        def post(token: str) -> int:
            status = web.post(
                "/upscale", content=body, headers={"Authorization": f"Bearer {token}"}
            ).status_code
            results.append(status)
            return status

        waiting = [threading.Thread(target=post, args=("a",))]
        waiting[0].start()
        assert entered.wait(30)
        assert post("a") == 429
        waiting.append(threading.Thread(target=post, args=("b",)))
        waiting[1].start()
        hold.set()
        for thread in waiting:
            thread.join()
        assert sorted(results) == [200, 200, 429]


def test_it_ends_when_the_pictures_inside_are_finished(model: Path) -> None:
    served = Served(model)
    body = encoded(noise(1500, 1500, 3))
    answers: list[tuple[int, bytes]] = []
    thread = threading.Thread(target=lambda: answers.append(served.post(body, "?format=bmp")))
    thread.start()
    while b'"inside":0' in urlopen(served.port):
        time.sleep(0.01)
    served.process.send_signal(signal.SIGTERM)
    thread.join(120)
    assert answers[0][0] == 200
    assert read("a.bmp", data=answers[0][1]).pixels.shape == (3000, 3000, 3)
    served.process.wait(60)
    with pytest.raises(ConnectionError):
        served.post(body)
    assert not (served.process.stderr.read() if served.process.stderr else "")


def urlopen(port: int) -> bytes:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=60)) as connection:
        connection.request("GET", "/health")
        return connection.getresponse().read()


def test_a_taken_port_is_one_line(model: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from seemore_fast.cli import app

    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = str(taken.getsockname()[1])
        done = CliRunner().invoke(app, ["serve", "--model", str(model), "--port", port])
    assert done.exit_code == 2
    assert re.fullmatch(rf"seemore-fast: cannot listen on 127.0.0.1, port {port}: .*\n", done.stderr)
    (tmp_path / "tokens").write_text("\n")
    done = CliRunner().invoke(app, ["serve", "--model", str(model), "--tokens", str(tmp_path / "tokens")])
    assert "no token in it" in done.stderr
