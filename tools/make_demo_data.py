"""Write a small procedural street data set in Cityscapes' layout.

    python tools/make_demo_data.py

takes under a minute and gives 128 training and 32 validation images of 512x256 pixels with Cityscapes' 19
classes.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from repvgg_seg.demo import DemoDatasetError, write_demo_dataset


class Parser(argparse.ArgumentParser):
    """A parser that reports a wrong option in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f'make_demo_data: {message}.\n')


def size(text: str) -> tuple[int, int]:
    """Read a size such as 512x256."""
    width, x, height = text.partition('x')
    if not (x and width.isdecimal() and height.isdecimal()):
        raise argparse.ArgumentTypeError(f'{text!r} is not a size: write WIDTHxHEIGHT, such as 512x256')
    return int(width), int(height)


def parse_args() -> argparse.Namespace:
    parser = Parser(
        description='Write a small procedural street data set in the layout of Cityscapes (19 classes). '
        'The same options give the same bytes; a complete set is left alone, an interrupted one completed.',
    )
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
    return parser.parse_args()


def main() -> int:
    args = parse_args()
    try:
        root = write_demo_dataset(
            args.out, train=args.train, val=args.val, size=args.size, seed=args.seed, workers=args.workers,
            overwrite=args.overwrite,
        )  # fmt: skip
    except DemoDatasetError as error:
        print(f'make_demo_data: {error}', file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print('make_demo_data: interrupted; the same command completes the set.', file=sys.stderr)
        return 130
    except OSError as error:
        print(
            f'make_demo_data: cannot write {error.filename or args.out}: {error.strerror}.', file=sys.stderr
        )
        return 2
    width, height = args.size
    print(f'{args.train} train and {args.val} val images of {width}x{height} pixels are in {root.resolve()}.')
    return 0


if __name__ == '__main__':
    sys.exit(main())
