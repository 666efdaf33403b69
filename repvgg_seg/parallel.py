"""One function over many files: in several processes, with a progress bar, in constant memory."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from itertools import islice
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

Item = TypeVar('Item')
Result = TypeVar('Result')

CHUNK = 4  # items that travel together: small enough for a smooth bar, large enough to hide the journey


def parallel_map(
    function: Callable[[Item], Result], items: Sequence[Item], *, workers: int | None = None, description: str
) -> Iterator[Result]:
    """Yield `function(item)` for each of `items`, in their order, under a progress bar on stderr.

    Processes are spawned, so `function` and its module must be importable, and so must the calling script: forking a
    process in which OpenCV or torch has threads can hang. `workers` is by default the number of processors; one, or
    few items, run in this process. However slow the caller, only a few results wait for it.

    Raises:
        ValueError: `workers` is less than one.
    """
    if workers is not None and workers < 1:
        raise ValueError(f'workers is {workers}, but at least one process must work')
    columns = TextColumn('{task.description}'), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=len(items))
        workers = min(workers or os.cpu_count() or 1, len(items) // CHUNK)
        results = map(function, items) if workers <= 1 else _in_processes(function, items, workers)
        for result in results:
            progress.advance(task)
            yield result


def _in_processes(function: Callable[[Item], Result], items: Sequence[Item], workers: int) -> Iterator[Result]:
    chunks = (items[i : i + CHUNK] for i in range(0, len(items), CHUNK))
    pool = ProcessPoolExecutor(workers, multiprocessing.get_context('spawn'), _start_worker)
    try:
        waiting = deque(pool.submit(_apply, function, chunk) for chunk in islice(chunks, 4 * workers))
        while waiting:
            yield from waiting.popleft().result()
            waiting += [pool.submit(_apply, function, chunk) for chunk in islice(chunks, 1)]
    finally:
        pool.shutdown(cancel_futures=True)


def _apply(function: Callable[[Item], Result], items: Sequence[Item]) -> list[Result]:
    return [function(item) for item in items]


def _start_worker() -> None:
    import cv2

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends the pool
    cv2.setNumThreads(1)  # the pool keeps every processor busy already
