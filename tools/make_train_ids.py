"""Make Cityscapes' *_labelTrainIds.png, which networks are trained on, from its *_labelIds.png or *_polygons.json.

    python tools/make_train_ids.py data/cityscapes

Masks that are there already are left as they are; an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import sys

from repvgg_seg.cli import command


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('root', help='folder of the data set; all masks below it are made')
    parser.add_argument(
        '--workers', type=int, metavar='N', help='number of processes (default: one for each processor)'
    )
    return parser.parse_args(argv)


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from repvgg_seg.data.train_ids import make_train_ids

    written, total = make_train_ids(args.root, workers=args.workers)
    print(f'{written} masks were made; {total} are below {args.root}.')


if __name__ == '__main__':
    sys.exit(main())
