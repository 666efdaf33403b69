"""The class map of small logits: by enlarging them, and without.

Logits are random fields as smooth as a trained network's, with boundaries in about 15 % of the cells at stride 8, and
for the worst case noise, with boundaries everywhere. models/class_map.py says how it is made.
"""

from __future__ import annotations

import argparse
import functools

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..models.class_map import class_map
from ..models.folding import resize
from . import runtimes
from .report import LATENCY, Row, speed_ups
from .runtimes import Candidate

COARSE = 192  # pixels between the nodes of the smooth fields
ENLARGED = 'enlarged'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        '--strides', type=int, nargs='+', default=[8, 4], metavar='N', help='pixels between two logits (default: 8 4)'
    )
    parser.add_argument(
        '--classes', type=int, default=19, metavar='N', help='number of classes, up to 256 (default: 19)'
    )
    runtimes.add_arguments(parser)


class Tail(nn.Module):
    """What follows the network in an inference graph as a graph: uint8 images (N, H, W, 3) -> class map (1, H, W).

    To all logits a zero is added that is computed of the images; without it, all would be constant.
    """

    def __init__(self, logits: Tensor, way: str) -> None:
        super().__init__()
        self.logits, self.way = nn.Parameter(logits.clone()), way

    def cast(self, dtype: torch.dtype) -> Tail:
        """Convert the logits, in place; return self."""
        return self.to(dtype)

    def scores(self, images: Tensor) -> Tensor:
        """Return the logits."""
        return self.logits + (images[0, 0, 0, 0].to(torch.int32) // 256).to(self.logits.dtype)

    def forward(self, images: Tensor) -> Tensor:
        logits = self.scores(images)
        size = (images.shape[1], images.shape[2])
        if self.way == ENLARGED:
            return resize(logits, size, False).argmax(1).to(torch.uint8)
        return class_map(logits, size)


def run(args: argparse.Namespace) -> list[Row]:
    """Measure the latency and memory of both ways, and count the pixels that differ from torch's own, in float32.

    Raises:
        ValueError: a runtime is unknown, or there is nothing to time.
    """
    chosen, images = runtimes.chosen(args)
    candidates, facts = [], []
    for what, logits in {k: v for stride in args.strides for k, v in _fields(args, stride).items()}.items():
        makers = {way: functools.partial(Tail, logits, way) for way in (ENLARGED, 'class map')}
        candidates += [Candidate(what, way, runtime, make) for way, make in makers.items() for runtime in chosen]
        with torch.inference_mode():
            found = class_map(logits, args.size)
            expected = F.interpolate(logits, args.size, mode='bilinear').argmax(1)
        facts.append(Row(what, '', '', 'boundary cells', 100 * _boundary_cells(logits), '%'))
        facts.append(Row(what, '', '', 'pixels that differ', int((found != expected).sum()), 'pixels'))
    rows = runtimes.measure(candidates, images, args.runs)
    times = [row for row in rows if row.metric == LATENCY]
    gained = speed_ups(times, lambda row: row.variant == ENLARGED, same=('what', 'runtime'))
    return [*gained, *rows, *facts]


def _fields(args: argparse.Namespace, stride: int) -> dict[str, Tensor]:
    small = tuple(-(-n // stride) for n in args.size)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, args.classes, *(n // COARSE + 2 for n in args.size), generator=generator)
    noise = torch.randn(1, args.classes, *small, generator=generator)
    smooth = 4 * F.interpolate(coarse, small, mode='bicubic', align_corners=True) + 0.05 * noise
    return {f'smooth logits at 1/{stride}': smooth, f'noise at 1/{stride}': noise}


def _boundary_cells(logits: Tensor) -> float:
    """Return the share of the cells whose corners are not all of one class."""
    best = logits.argmax(1)
    corners = [best[:, y : y - 1 or None, x : x - 1 or None] for y in (0, 1) for x in (0, 1)]
    return float((torch.stack(corners) != corners[0]).any(0).float().mean())
