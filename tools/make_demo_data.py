"""Write a small procedural street data set in Cityscapes' layout.

    python tools/make_demo_data.py

takes under a minute and gives 128 training and 32 validation images of 512x256 pixels with Cityscapes' 19
classes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from repvgg_seg.cli import command


def size(text: str) -> tuple[int, int]:
    """Read a size such as 512x256."""
    width, x, height = text.partition('x')
    if not (x and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f'{text!r} is not a size: write WIDTHxHEIGHT, such as 512x256')
    return int(width), int(height)


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--out',
        type=Path,
        default=Path('data/demo'),
        metavar='FOLDER',
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
        type=size,
        default='512x256',
        metavar='WxH',
        help='size in pixels, from 64x32 up (default: %(default)s)',
    )
    parser.add_argument(
        '--seed',
        type=int,
        default=0,
        metavar='N',
        help='another seed gives other streets (default: %(default)s)',
    )
    parser.add_argument(
        '--workers', type=int, metavar='N', help='number of processes (default: one for each processor)'
    )
    parser.add_argument(
        '--overwrite', action='store_true',
        help='replace a demo set of other parameters; only files that a demo set wrote are ever removed',
    )  # fmt: skip
    return parser.parse_args(argv)


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from repvgg_seg.demo import write_demo_dataset

    root = write_demo_dataset(
        args.out, train=args.train, val=args.val, size=args.size, seed=args.seed, workers=args.workers,
        overwrite=args.overwrite,
    )  # fmt: skip
    width, height = args.size
    print(f'{args.train} train and {args.val} val images of {width}x{height} pixels are in {root.resolve()}.')


if __name__ == '__main__':
    sys.exit(main())
