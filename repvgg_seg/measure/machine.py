"""What a figure was measured on: device, threads, versions and date; and how fast that machine can be at all."""

from __future__ import annotations

import functools
import platform
from collections.abc import Sequence
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from ..doctor import cpu
from .latency import measure_latency


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


def gemm_peak(dtypes: Sequence[torch.dtype], *, size: int = 2048, runs: int = 10) -> dict[torch.dtype, float]:
    """Return the machine's GFLOP/s in square matrix products of `size`, the fastest of `runs`, for each of `dtypes`.

    The peak that a convolution can come near: a product and its sum count as two operations. Integers are multiplied
    by the runtimes alone, so `dtypes` are of floating point.
    """
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    matrices = {dtype: torch.randn(size, size, device=device).to(dtype) for dtype in dtypes}
    with torch.inference_mode():
        latencies = measure_latency(
            {str(dtype): functools.partial(torch.mm, m, m) for dtype, m in matrices.items()}, runs=runs, warmup=3
        )
    return {dtype: 2 * size**3 / (latencies[str(dtype)].min_ms * 1e6) for dtype in dtypes}
