"""What a figure was measured on: device, threads, versions and date; and how fast that machine can be at all."""

from __future__ import annotations

import functools
import platform
from collections.abc import Callable, Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from ..environment import cpu
from .timing import Latency, measure_latency

GEMM_SIZE = 2048  # the side of the matrices whose product is the peak


def describe_machine(*packages: str) -> dict[str, Any]:
    """Return device, threads, versions (Python, torch and the named distributions, if installed) and date."""
    versions = {'python': platform.python_version(), 'torch': torch.__version__}
    for package in packages:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    on_gpu = torch.cuda.is_available()
    return {
        'device': torch.cuda.get_device_name() if on_gpu else cpu()[0],
        'threads': torch.get_num_threads(),
        'versions': versions,
        'date': datetime.now(timezone.utc).date().isoformat(),
    }


def gemm_calls(dtypes: Sequence[torch.dtype], size: int = GEMM_SIZE) -> dict[torch.dtype, Callable[[], object]]:
    """Return, for each of `dtypes` (of floating point), a call of torch that multiplies two square matrices."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    matrices = {dtype: torch.randn(size, size, device=device).to(dtype) for dtype in dtypes}
    return {dtype: torch.inference_mode()(functools.partial(torch.mm, m, m)) for dtype, m in matrices.items()}


def gemm_rate(latency: Latency, size: int = GEMM_SIZE) -> float:
    """Return the GFLOP/s of the fastest run of such a call: a product and its sum count as two operations."""
    return 2 * size**3 / (latency.min_ms * 1e6)


def gemm_peak(dtypes: Sequence[torch.dtype], *, size: int = GEMM_SIZE, runs: int = 10) -> dict[torch.dtype, float]:
    """Return the machine's GFLOP/s in square matrix products for each of `dtypes`: what a convolution can come near."""
    latencies = measure_latency({str(d): call for d, call in gemm_calls(dtypes, size).items()}, runs=runs, warmup=3)
    return {dtype: gemm_rate(latencies[str(dtype)], size) for dtype in dtypes}
