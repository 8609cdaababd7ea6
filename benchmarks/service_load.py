"""Many clients at once at ``seemore-fast serve``, here: answers by status, lost ones, memory, waiting.

    python benchmarks/service_load.py --clients 100 --seconds 60

Every client sends one of ten pictures, waits for its answer, compares it with what the network gives, and
sends the next; after a 429 or 503 it waits a little.  The last line says whether the service's own metrics
counted the same.  Exit status 1: an answer was lost, wrong, or counted wrongly.
"""

from __future__ import annotations

import argparse
import http.client
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import numpy as np
import psutil

from seemore_fast import Upscaler
from seemore_fast.image import Image, read, write


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    with closing(http.client.HTTPConnection("127.0.0.1", port, timeout=300)) as connection:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()


def main() -> int:
    options = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    options.add_argument("--clients", type=int, default=100)
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--queue", type=int, default=30)
    options.add_argument("--side", type=int, default=48, help="of the pictures, in pixels")
    options.add_argument("--model", default="t-x4")
    given = options.parse_args()
    upscaler = Upscaler(given.model)
    drawn = np.random.default_rng(0).integers(0, 256, (10, given.side, given.side, 3), np.uint8)
    expected = [upscaler.up(picture) for picture in drawn]
    with tempfile.TemporaryDirectory() as folder:
        for number, picture in enumerate(drawn):
            write(Path(folder, f"{number}.png"), Image(picture))
        bodies = [Path(folder, f"{number}.png").read_bytes() for number in range(len(drawn))]
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    command = ["serve", "--model", given.model, "--port", str(port), "--queue", str(given.queue)]
    server = subprocess.Popen(
        [sys.executable, "-m", "seemore_fast.cli", *command], stderr=subprocess.PIPE, text=True
    )
    try:
        assert server.stderr is not None
        server.stderr.readline()  # it listens
        ask(port, "POST", "/upscale", bodies[0])
        memory = psutil.Process(server.pid)
        before, most = memory.memory_info().rss, 0
        answers: Counter[int] = Counter({200: 1})
        faults: list[str] = []
        waited: list[float] = []
        lock, end = threading.Lock(), time.monotonic() + given.seconds

        def work(seed: int) -> None:
            while time.monotonic() < end:
                start = time.monotonic()
                try:
                    status, content = ask(port, "POST", "/upscale", bodies[seed % 10])
                    same = status != 200 or np.array_equal(
                        read("a", data=content).pixels, expected[seed % 10]
                    )
                    fault = None if same else "another picture"
                except Exception as error:
                    status, fault = 0, repr(error)
                with lock:
                    answers[status] += 1
                    if fault is not None:
                        faults.append(fault)
                    if status == 200:
                        waited.append(time.monotonic() - start)
                if status != 200:
                    time.sleep(0.1)

        threads = [threading.Thread(target=work, args=(seed,)) for seed in range(given.clients)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            most = max(most, memory.memory_info().rss)
            time.sleep(0.05)
        text = ask(port, "GET", "/metrics")[1].decode()
    finally:
        server.terminate()
        server.wait(60)
    counted = {int(s): int(float(n)) for s, n in re.findall(r'requests_total\{status="(\d+)"\} (\S+)', text)}
    waited.sort()
    print(f"answers: {dict(answers)}; lost or wrong: {len(faults)} {faults[:3]}")
    print(f"pictures a second: {len(waited) / given.seconds:.1f}")
    print(f"seconds to a picture: median {waited[len(waited) // 2]:.2f}, longest {waited[-1]:.2f}")
    print(f"memory: {before / 1e6:.0f} MB before, {most / 1e6:.0f} MB at most")
    print(f"the service counted the same: {counted == dict(answers)}")
    return 0 if not faults and counted == dict(answers) else 1


if __name__ == "__main__":
    sys.exit(main())
