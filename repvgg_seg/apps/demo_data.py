"""Write a small procedural street data set in Cityscapes' layout.

    python tools/make_demo_data.py

takes under a minute and gives 128 training and 32 validation images of 512x256 pixels with Cityscapes' 19
classes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..cli import add_workers, image_size
from ..demo import write_demo_dataset
from ..terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('data/demo'),
        metavar='DIR',
        help='folder of the data set (default: %(default)s)',
    )
    parser.add_argument(
        '--train', type=int, default=128, metavar='N', help='number of training images (default: %(default)s)'
    )
    parser.add_argument(
        '--val', type=int, default=32, metavar='N', help='number of validation images (default: %(default)s)'
    )
    parser.add_argument(
        '--size',
        type=image_size,
        default='256x512',
        metavar='HEIGHTxWIDTH',
        help='in pixels, from 32x64 up (default: %(default)s)',
    )
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        metavar='N',
        help='another seed gives other streets (default: %(default)s)',
    )
    add_workers(parser)
    parser.add_argument(
        '--overwrite', action='store_true',
        help='replace a demo set of other parameters; only files that a demo set wrote are ever removed',
    )  # fmt: skip


def main(args: argparse.Namespace) -> None:
    """Draw, and say where."""
    height, width = args.size
    root = write_demo_dataset(
        args.out, train=args.train, val=args.val, size=(width, height), seed=args.seed, workers=args.workers,
        overwrite=args.overwrite,
    )  # fmt: skip
    say(f'{args.train} train and {args.val} val images of {height}x{width} pixels are in {root.resolve()}.')
