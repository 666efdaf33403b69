"""Draw what the network sees of a data set: after augmentation, beside the same under its labels.

    python tools/browse_dataset.py configs/pspnet_repvgg_a0_demo.py --out work_dirs/browse

Look at the pictures before a long training: are the colours natural, do labels lie where the things are, is what is
hatched (ignored) meant to be?
"""

from __future__ import annotations

import argparse
import sys

from repvgg_seg.cli import add_cfg_options, command


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('--out', required=True, metavar='DIR', help='where pictures go')
    parser.add_argument('--split', choices=['train', 'val', 'test'], default='train', help='(default: %(default)s)')
    parser.add_argument('--number', type=int, default=16, metavar='N', help='how many samples (default: %(default)s)')
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='another seed augments differently')
    add_cfg_options(parser, DictAction)
    return parser.parse_args(argv)


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from repvgg_seg.apps.browse_dataset import browse
    from repvgg_seg.apps.config import load_config

    cfg = load_config(args.config, args.cfg_options)
    drawn = browse(cfg, out_dir=args.out, split=args.split, number=args.number, seed=args.seed)
    print(f'{drawn} samples of {args.split} are drawn in {args.out}')


if __name__ == '__main__':
    sys.exit(main())
