"""Latency of several callables in one run, interleaved so that a drifting machine slows all of them alike."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

import torch
from rich.console import Console
from rich.progress import track

Key = TypeVar('Key')


@dataclass(frozen=True)
class Latency:
    """Latencies of one callable, in milliseconds."""

    min_ms: float
    p50_ms: float
    p95_ms: float
    runs: int


def measure_latency(
    candidates: Mapping[Key, Callable[[], object]], *, runs: int = 10, warmup: int = 2
) -> dict[Key, Latency]:
    """Time `candidates` in turn, A B A B …, `runs` rounds after `warmup` rounds that are not counted.

    Each call ends with a synchronisation of the GPU, if there is one. A progress bar is drawn on stderr.

    Raises:
        ValueError: there are no candidates or no runs.
    """
    if not candidates or runs < 1:
        raise ValueError('measure_latency needs at least one candidate and one run')
    seconds: dict[Key, list[float]] = {key: [] for key in candidates}
    for round_ in track(range(warmup + runs), 'timing', console=Console(stderr=True), transient=True):
        for key, candidate in candidates.items():
            start = time.perf_counter()
            candidate()
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            if round_ >= warmup:
                seconds[key].append(time.perf_counter() - start)
    return {key: _summary(values) for key, values in seconds.items()}


def _summary(seconds: list[float]) -> Latency:
    ordered = sorted(seconds)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return Latency(1e3 * ordered[0], 1e3 * statistics.median(ordered), 1e3 * p95, len(ordered))
