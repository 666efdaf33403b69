"""Look at every image and mask of a config before training on them.

    python tools/check_dataset.py configs/pspnet_repvgg_a0_demo.py

says what is wrong, where, and what cures it: missing, damaged, turned or doubled files, masks that are no class
indices, labels outside the classes or off by one, classes that never occur, validation images that are trained on. A
chart of the classes and a contact sheet of each split go to --out: look at them. Copies are found by their pixels; a
copy that was resized or saved as JPEG again is not.

The exit status is 0, with or without warnings, and 2 if there are errors.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from repvgg_seg.cli import add_cfg_options, command


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('--out', metavar='DIR', help='where pictures go (default: work_dirs/NAME_OF_CONFIG/data)')
    parser.add_argument('--json', metavar='FILE', help='write all figures there')
    parser.add_argument(
        '--workers', type=int, metavar='N', help='number of processes (default: one for each processor)'
    )
    add_cfg_options(parser, DictAction)
    return parser.parse_args(argv)


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from repvgg_seg.apps.check_dataset import check_dataset
    from repvgg_seg.apps.config import default_work_dir, load_config
    from repvgg_seg.files import write_text

    cfg = load_config(args.config, args.cfg_options)
    out_dir = args.out or Path(default_work_dir(cfg), 'data')
    report = check_dataset(cfg, out_dir=out_dir, workers=args.workers)
    print(report)
    print(f'pictures: {out_dir}')
    if args.json:
        write_text(json.dumps({'config': args.config, **report.data()}, indent=2) + '\n', args.json)
    if report.errors:
        raise ValueError(f'{args.config} should not be trained on this data before the errors above are cured')


if __name__ == '__main__':
    sys.exit(main())
