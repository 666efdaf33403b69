"""Train a segmentor with a RepVGG backbone.

    python tools/train.py configs/pspnet_repvgg_a0_demo.py --amp
    torchrun --nproc-per-node 4 tools/train.py configs/pspnet_repvgg_b2_cityscapes.py --launcher pytorch

Checkpoints, logs and the resolved config go to the work directory. Weights are kept channels_last; turn that off with
--cfg-options custom_hooks=[].
"""

from __future__ import annotations

import argparse
import sys

from repvgg_seg.cli import command, option


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='config file')
    parser.add_argument('--work-dir', help='where checkpoints and logs go (default: work_dirs/NAME_OF_CONFIG)')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='latest',
        metavar='CHECKPOINT',
        help='go on from a checkpoint, by default from the latest of the work directory',
    )
    parser.add_argument('--amp', action='store_true', help='mixed precision: bfloat16, or float16 on GPUs without it')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how processes were started',
    )
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        type=option,
        action=DictAction,
        metavar='KEY=VALUE',
        help='change config values, e.g. data_root=DIR train_cfg.max_iters=100',
    )
    parser.add_argument('--local-rank', '--local_rank', type=int, help=argparse.SUPPRESS)  # of torch.distributed.launch
    return parser.parse_args(argv)


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from repvgg_seg.openmmlab.training import load_config, train

    cfg = load_config(args.config, args.cfg_options)
    train(cfg, work_dir=args.work_dir, resume=args.resume, amp=args.amp, launcher=args.launcher)


if __name__ == '__main__':
    sys.exit(main())
