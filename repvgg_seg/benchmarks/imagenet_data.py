"""How fast images are decoded and augmented: this package's pipeline beside the authors', of PIL images."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as pil_transforms

from ..files import walk
from ..pretrain.objective import MEAN, STD, normalise
from ..pretrain.transforms import decode, train_transform
from .machine import describe_machine
from .timing import measure_latency

SUFFIXES = {'.jpg', '.jpeg', '.png'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `tools/benchmark.py imagenet-data`."""
    parser.add_argument('folder', type=Path, help='folder with images, in folders or not')
    parser.add_argument('--images', type=int, default=64, help='at most so many of them (default: 64)')
    parser.add_argument('--resolution', type=int, default=224, help='training resolution (default: 224)')
    parser.add_argument('--runs', type=int, default=10, help='counted runs of each pipeline (default: 10)')


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time what the command line asks for."""
    paths = list(walk(args.folder, SUFFIXES))[: args.images]
    return compare_pipelines(paths, resolution=args.resolution, runs=args.runs)


def compare_pipelines(paths: Sequence[Path], *, resolution: int = 224, runs: int = 10) -> dict[str, Any]:
    """Time both pipelines in turn on one core, from files in memory to a normalised batch, and their decoders alone.

    Returns plain data: images per second (of the median) of each, and what it was measured on.

    Raises:
        ValueError: there are no images.
    """
    if not paths:
        raise ValueError(f'there is no image to decode: name a folder with {", ".join(sorted(SUFFIXES))} files')
    files = [path.read_bytes() for path in paths]
    theirs = pil_transforms.Compose(
        [
            pil_transforms.RandomResizedCrop(resolution),
            pil_transforms.RandomHorizontalFlip(),
            pil_transforms.ToTensor(),
            pil_transforms.Normalize([m / 255 for m in MEAN], [s / 255 for s in STD]),
        ]
    )
    ours = train_transform(resolution)
    pipelines: dict[str, Callable[[], object]] = {
        "authors' (PIL)": lambda: torch.stack([theirs(_pil(data)) for data in files]),
        'ours (uint8 tensors)': lambda: normalise(torch.stack([ours(_decoded(data)) for data in files])),
        'decoding, PIL': lambda: [_pil(data) for data in files],
        'decoding, ours': lambda: [_decoded(data) for data in files],
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the worker of a data loader
    try:
        latencies = measure_latency(pipelines, runs=runs)
    finally:
        torch.set_num_threads(threads)
    return {
        'images': len(files),
        'mean_bytes': sum(map(len, files)) / len(files),
        'resolution': resolution,
        'images_per_s': {name: 1e3 * len(files) / latency.p50_ms for name, latency in latencies.items()},
        **describe_machine('torchvision', 'pillow'),
        'threads': 1,
    }


def _pil(data: bytes) -> Image.Image:
    return Image.open(io.BytesIO(data)).convert('RGB')


def _decoded(data: bytes) -> Tensor:
    return decode(data, 'an image of the benchmark')


def table(result: dict[str, Any]) -> str:
    """Return the result as lines of text."""
    lines = [f'{"":>22}{"images/s":>10}']
    lines += [f'{name:>22}{speed:>10.1f}' for name, speed in result['images_per_s'].items()]
    images = f'{result["images"]} images of {result["mean_bytes"] / 1024:.0f} KiB to {result["resolution"]} pixels'
    return '\n'.join([*lines, f'{images}; {result["device"]}, one thread'])
