"""Make Cityscapes' *_labelTrainIds.png, which networks are trained on, from its *_labelIds.png or *_polygons.json.

    python tools/make_train_ids.py data/cityscapes

Masks that are there already are left as they are; an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse

from ..cli import add_workers
from ..data.train_ids import make_train_ids
from ..terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('root', help='folder of the data set; all masks below it are made')
    add_workers(parser)


def main(args: argparse.Namespace) -> None:
    """Make them, and say how many."""
    written, total = make_train_ids(args.root, workers=args.workers)
    say(f'{written} masks were made; {total} are below {args.root}.')
