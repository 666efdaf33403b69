"""Computing results before they are asked for: in order, in bounded memory, and stopped when the consumer stops."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

Item = TypeVar('Item')
Result = TypeVar('Result')

_END = object()


def ordered(function: Callable[[Item], Result], items: Iterable[Item], workers: int) -> Generator[Result, None, None]:
    """Map `items` in `workers` threads, in order, taking at most one item more; one worker is the caller's thread."""
    if workers == 1:
        yield from map(function, items)
        return
    running: deque[Future[Result]] = deque()
    failure: list[Exception] = []
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in until_error(items, failure):
                running.append(pool.submit(function, item))
                if len(running) > workers:
                    yield running.popleft().result()
            while running:
                yield running.popleft().result()
        finally:
            for future in running:
                future.cancel()
    if failure:
        raise failure[0]


def until_error(items: Iterable[Item], failure: list[Exception]) -> Generator[Item, None, None]:
    """Yield `items` until they raise; the error goes into `failure`, to be raised when the running calls are done."""
    try:
        yield from items
    except Exception as error:
        failure.append(error)


def ahead_of(items: Iterable[Item], depth: int) -> Generator[Item, None, None]:
    """Yield `items`, which another thread produces, up to `depth` of them before they are asked for.

    Their error is raised here. Closing this generator closes `items` in that thread, and waits for it.
    """
    ready: queue.Queue[Any] = queue.Queue(depth)
    closed = threading.Event()
    failure: list[BaseException] = []

    def produce() -> None:
        try:
            for item in items:
                ready.put(item)
                if closed.is_set():
                    break
        except BaseException as error:
            failure.append(error)
        finally:
            if isinstance(items, Generator):
                items.close()
            if not closed.is_set():
                ready.put(_END)

    thread = threading.Thread(target=produce, daemon=True)
    thread.start()
    try:
        while (item := ready.get()) is not _END:
            yield item
    finally:
        closed.set()
        # At most one more item is put, before the thread sees `closed`: there is room for it now.
        while not ready.empty():
            ready.get_nowait()
        thread.join()
    if failure:
        raise failure[0]
