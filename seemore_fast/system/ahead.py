"""Work done ahead in threads, handed out in order: a function's results, or the items of a generator."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

_END = object()


def map_ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, depth: int
) -> Generator[Result, None, None]:
    """``map(function, items)`` with up to ``depth`` results computed before they are taken.

    Items may be endless.  What ``function`` raises comes up at its item's turn.  Closing the result waits
    for the calls that run.
    """
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads, "seemore-data") as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > depth:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def run_ahead(items: Generator[Item, None, None], depth: int) -> Generator[Item, None, None]:
    """The same items in the same order, made in a thread that is at most ``depth`` items ahead.

    What ``items`` raises is raised here.  Closing the result (``contextlib.closing``) closes ``items`` in its
    thread and waits for that, so that stages built upon each other end in turn.
    """
    # Taking from a queue.Queue is Python code: a Ctrl-C in the midst of it may leave its lock taken for good.
    ready: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
    stopped = threading.Event()

    def put(item: Any, error: BaseException | None = None) -> None:
        while not stopped.is_set():
            if ready.qsize() < depth:
                return ready.put((item, error))
            stopped.wait(0.01)

    def work() -> None:
        try:
            for item in items:
                put(item)
                if stopped.is_set():
                    break
            items.close()
        except BaseException as error:
            put(_END, error)
        else:
            put(_END)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while True:
            item, error = ready.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield item
    finally:
        stopped.set()
        thread.join()
