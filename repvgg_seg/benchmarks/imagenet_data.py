"""The loading of ImageNet: this package's decoding and augmentation beside the authors', of PIL images."""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torchvision import transforms as pil_transforms

from ..files import walk
from ..image_files import open_image
from ..pretrain.objective import MEAN, STD, normalise
from ..pretrain.transforms import decode, train_transform
from ..timing import measure_latency
from .report import THROUGHPUT, Row

SUFFIXES = {'.jpg', '.jpeg', '.png'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('folder', type=Path, help='folder with images, in folders or not')
    parser.add_argument('--samples', type=int, default=64, metavar='N', help='at most so many of them (default: 64)')
    parser.add_argument('--resolution', type=int, default=224, metavar='N', help='training resolution (default: 224)')
    parser.add_argument('--runs', type=int, default=10, metavar='N', help='counted runs of each pipeline (default: 10)')


def run(args: argparse.Namespace) -> list[Row]:
    """Measure images per second (of the median) on one core, from files in memory to a normalised batch, and decoding.

    Raises:
        ValueError: there are no images.
    """
    paths = list(walk(args.folder, SUFFIXES))[: args.samples]
    if not paths:
        raise ValueError(f'there is no image to decode: name a folder with {", ".join(sorted(SUFFIXES))} files')
    files = [path.read_bytes() for path in paths]
    authors = pil_transforms.Compose(
        [
            pil_transforms.RandomResizedCrop(args.resolution),
            pil_transforms.RandomHorizontalFlip(),
            pil_transforms.ToTensor(),
            pil_transforms.Normalize([m / 255 for m in MEAN], [s / 255 for s in STD]),
        ]
    )
    ours = train_transform(args.resolution)
    pipelines: dict[tuple[str, str], Callable[[], object]] = {
        ("authors' (PIL)", 'whole'): lambda: torch.stack([authors(_pil(data)) for data in files]),
        ('ours (uint8 tensors)', 'whole'): lambda: normalise(torch.stack([ours(_decoded(data)) for data in files])),
        ("authors' (PIL)", 'decoding'): lambda: [_pil(data) for data in files],
        ('ours (uint8 tensors)', 'decoding'): lambda: [_decoded(data) for data in files],
    }
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the worker of a data loader
    try:
        latencies = measure_latency(pipelines, runs=args.runs)
    finally:
        torch.set_num_threads(threads)
    facts = {
        'size': f'{args.resolution}x{args.resolution}',
        'threads': 1,
        'samples': len(files),
        'mean_kib': sum(map(len, files)) / len(files) / 1024,
    }
    return [
        Row(*key, '', THROUGHPUT, 1e3 * len(files) / latency.p50_ms, 'images/s', facts | {'runs': args.runs})
        for key, latency in latencies.items()
    ]


def _pil(data: bytes) -> Image.Image:
    return open_image(io.BytesIO(data)).convert('RGB')


def _decoded(data: bytes) -> Tensor:
    return decode(data, 'an image of the benchmark')
