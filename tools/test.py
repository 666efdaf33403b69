"""Evaluate a segmentor, and with --deploy also its converted form.

    python tools/test.py configs/pspnet_repvgg_a0_demo.py work_dirs/pspnet_repvgg_a0_demo --deploy --show-dir overlays

CHECKPOINT is a file or a work directory, which stands for its best checkpoint or else its latest.
"""

from __future__ import annotations

import argparse
import sys

from repvgg_seg.cli import add_runner_options, command


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('checkpoint', help='checkpoint file or work directory')
    parser.add_argument(
        '--deploy',
        action='store_true',
        help='convert the whole segmentor, verify it, evaluate both forms and print their difference',
    )
    parser.add_argument('--tta', action='store_true', help='test-time augmentation: six scales, flipped and not')
    parser.add_argument('--out', metavar='DIR', help='write the predicted masks as PNG files of class indices')
    parser.add_argument('--show-dir', metavar='DIR', help='draw predictions beside the ground truth')
    add_runner_options(parser, DictAction, training=False, work_dir='work_dirs/NAME_OF_CONFIG')
    return parser.parse_args(argv)


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from repvgg_seg.apps.config import load_config
    from repvgg_seg.apps.test import evaluate, format_table

    results = evaluate(
        load_config(args.config, args.cfg_options),
        args.checkpoint,
        deploy=args.deploy,
        tta=args.tta,
        out_dir=args.out,
        show_dir=args.show_dir,
        work_dir=args.work_dir,
        launcher=args.launcher,
    )
    if results:  # only the first process of several has them
        print(format_table(results))
        if args.show_dir:
            print(f'overlays: {args.show_dir}')


if __name__ == '__main__':
    sys.exit(main())
