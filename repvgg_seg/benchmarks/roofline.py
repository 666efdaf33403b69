"""The share of the machine's peak that a graph reaches: its operations per second over those of matrix products.

The products run in turn with the graphs and in the same runtimes; of each precision the fastest runtime counts.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from ..apps.config import add_cfg_options
from ..deploy.convert import convert_segmentor, switch_to_deploy
from ..deploy.graph import InferenceGraph, fold_norms
from ..models.trunk import RepVGG
from ..models.variants import VARIANTS
from ..workflows.config import build_segmentor, load_config
from . import runtimes
from .report import LATENCY, Row
from .runtimes import Candidate, ImageGraph

SIDE, PRODUCTS = 2048, 4


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        'models', nargs='+', metavar='MODEL', help='configs of segmentors, or full names such as RepVGG-A0: its trunk'
    )
    add_cfg_options(parser)
    runtimes.add_arguments(parser)


class Products(nn.Module):
    """A chain of products of square matrices as a graph: uint8 images (N, H, W, 3), whose first value counts -> one."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Parameter(torch.randn(SIDE, SIDE))
        self.factor = nn.Parameter(torch.randn(SIDE, SIDE) / SIDE**0.5)

    def cast(self, dtype: torch.dtype) -> Products:
        """Convert the matrices, in place; return self."""
        return self.to(dtype)

    def forward(self, images: Tensor) -> Tensor:
        x = self.first + images[0, 0, 0, 0].to(self.first.dtype)  # depends on the input, or it would be a constant
        for _ in range(PRODUCTS):
            x = x @ self.factor
        return x


def run(args: argparse.Namespace) -> list[Row]:
    """Measure the share of the peak, the speed and the latencies.

    Raises:
        FileNotFoundError: a config is not there.
        ValueError: a model or a runtime is unknown, or there is nothing to time.
    """
    chosen, images = runtimes.chosen(args)
    makers: dict[str, Callable[[], Any]] = {Path(model).stem: _maker(model, args.cfg_options) for model in args.models}
    products = f'{PRODUCTS} products of {SIDE}x{SIDE}'
    graphs = makers | {products: Products}
    candidates = [Candidate(name, '', runtime, make) for name, make in graphs.items() for runtime in chosen]
    rows = runtimes.measure(candidates, images, args.runs)
    work = {row.what: row.value or 0.0 for row in rows if row.metric == 'work'}
    precision = {runtime.name: runtime.precision for runtime in chosen}
    times = [row for row in rows if row.metric == LATENCY]
    peaks: dict[str, float] = {}
    for row in times:
        if row.what == products:  # its fastest run
            key = precision[row.runtime]
            peaks[key] = max(peaks.get(key, 0), work[products] / row.extra['min'] * 1e3)
    speeds = [(row, work[row.what] / row.value * 1e3) for row in times if row.value]
    shares = [
        row.derived('share of peak', 100 * speed / peaks[precision[row.runtime]], '%')
        for row, speed in speeds
        if row.what != products and precision[row.runtime] in peaks
    ]
    return [*shares, *(row.derived('speed', speed, 'GFLOP/s') for row, speed in speeds), *rows]


def _maker(model: str, options: dict[str, Any] | None) -> Callable[[], Any]:
    if model in VARIANTS:
        trunk = switch_to_deploy(RepVGG(model, out_indices=(3,)))
        return lambda: ImageGraph(copy.deepcopy(trunk))
    converted = convert_segmentor(build_segmentor(load_config(model, options)))
    return lambda: InferenceGraph(fold_norms(converted))
