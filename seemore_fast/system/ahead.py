"""Work done ahead in threads, handed out in order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    function: Callable[[Item], Result], items: Iterable[Item], threads: int, depth: int
) -> Iterator[Result]:
    """``map(function, items)`` with up to ``depth`` results computed before they are asked for.

    Items may be endless.  What ``function`` raises comes up at its item's turn.  Closing the iterator waits
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
