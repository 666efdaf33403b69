"""Look at every image and mask of a config before training on them.

    python tools/check_dataset.py configs/pspnet_repvgg_a0_demo.py

says what is wrong, where, and what cures it: missing, damaged, turned or repeated files, masks that are not class
indices, labels outside the classes or off by one, classes that never occur, validation images that are trained on. A
chart of the classes and a contact sheet of each split go to --out: look at them. Copies are found by their pixels; a
copy that was resized or saved as JPEG again is not.

--class-weight prints weights for the loss, by which rare classes count more, as a config takes them.

The exit status is 0, with or without warnings, and 2 if there are errors.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..cli import add_workers
from ..data.inspection import write_pictures
from ..data.tally import CLASS_WEIGHTS
from ..files import write_text
from ..terminal import say
from ..workflows.config import load_config
from ..workflows.splits import check_dataset
from ..workflows.work_dir import default_work_dir
from .config import add_config


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config(parser)
    parser.add_argument('--out', metavar='DIR', help='where pictures go (default: work_dirs/NAME_OF_CONFIG/data)')
    parser.add_argument('--json', metavar='FILE', help='write all figures there')
    parser.add_argument(
        '--class-weight', choices=CLASS_WEIGHTS, help='print weights of the classes, from the first split, for the loss'
    )
    add_workers(parser)


def main(args: argparse.Namespace) -> None:
    """Report what was found.

    Raises:
        ValueError: there are errors.
    """
    cfg = load_config(args.config, args.cfg_options)
    out_dir = args.out or Path(default_work_dir(cfg), 'data')
    report = check_dataset(cfg, workers=args.workers)
    write_pictures(Path(out_dir), report)
    say(*str(report).splitlines())
    say(f'pictures: {out_dir}')
    if args.class_weight:
        weights = report.tallies[0].class_weights(args.class_weight)
        say(f'model = dict(decode_head=dict(loss_decode=dict(class_weight={weights})))')
    if args.json:
        write_text(json.dumps({'config': args.config, **report.data()}, indent=2) + '\n', args.json)
    if report.errors:
        raise ValueError(f'{args.config} should not be trained on this data before the errors above are cured')
