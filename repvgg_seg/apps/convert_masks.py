"""Turn masks of colours into masks of class indices, the form that training reads.

    python tools/convert_masks.py data/mine/classes.json data/mine/coloured data/mine/masks

classes.json gives each class its colour: see docs/data.md. Every image in the second folder and its
folders becomes an 8-bit PNG file under the same name in the third. An interrupted conversion goes on where it was.
"""

from __future__ import annotations

import argparse

from ..cli import add_workers
from ..data.masks import convert_masks
from ..terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('classes', help='classes.json: the names and colours of the classes')
    parser.add_argument('source', help='folder of the masks of colours')
    parser.add_argument('target', help='folder for the masks of class indices, new or of an earlier call')
    parser.add_argument(
        '--ignore-unknown', action='store_true', help='pixels of colours that no class has become 255: not labelled'
    )
    parser.add_argument('--overwrite', action='store_true', help='convert masks anew that are there already')
    add_workers(parser)


def main(args: argparse.Namespace) -> None:
    """Convert, and say how many."""
    done = convert_masks(
        args.classes,
        args.source,
        args.target,
        ignore_unknown=args.ignore_unknown,
        overwrite=args.overwrite,
        workers=args.workers,
    )
    kept = f', {done.kept} were there already' if done.kept else ''
    ignored = f'; {done.ignored_pixels:,} pixels of unknown colours are not labelled' if done.ignored_pixels else ''
    say(f'converted {done.converted} masks to {args.target}{kept}{ignored}')
