"""Train a segmentor with a RepVGG backbone.

    python tools/train.py configs/pspnet_repvgg_a0_demo.py --amp
    torchrun --nproc-per-node 4 tools/train.py configs/pspnet_repvgg_b2_cityscapes.py --launcher pytorch

Some of the data is looked at first; "python tools/check_dataset.py CONFIG" looks at all of it. Files that cannot be
read are skipped, up to the share --cfg-options max_bad_share=0.01, and listed in unreadable_files.txt.

Checkpoints, logs and the resolved config go to the work directory. Weights are kept channels_last; turn that off with
--cfg-options custom_hooks=[].
"""

from __future__ import annotations

import argparse
import sys

from repvgg_seg.cli import add_runner_options, command


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument(
        '--no-data-check',
        action='store_true',
        help='start without a look at masks and sizes: for pipelines that make labels of their own',
    )
    add_runner_options(parser, DictAction, training=True, work_dir='work_dirs/NAME_OF_CONFIG')
    return parser.parse_args(argv)


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from repvgg_seg.apps.config import load_config
    from repvgg_seg.apps.train import train

    cfg = load_config(args.config, args.cfg_options)
    train(
        cfg,
        work_dir=args.work_dir,
        resume=args.resume,
        amp=args.amp,
        launcher=args.launcher,
        data_check=not args.no_data_check,
    )


if __name__ == '__main__':
    sys.exit(main())
