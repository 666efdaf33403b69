"""Train a RepVGG classifier on ImageNet, or evaluate one.

    python tools/pretrain_imagenet.py --arch RepVGG-A0 --data-root data/imagenet --recipe paper-120e --amp
    torchrun --nproc-per-node 8 tools/pretrain_imagenet.py --launcher pytorch --amp
    python tools/pretrain_imagenet.py --eval repvgg://RepVGG-A0 --deploy --resolution 224 320

The data are folders train/CLASS and val/CLASS, or ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar as they were
downloaded, the latter with ILSVRC2012_devkit_t12.tar.gz beside it. What training leaves in the work directory,
ARCH-pretrain.pth and the averaged ARCH-pretrain-ema.pth, loads as a backbone and converts with convert_deploy.py.
"""

from __future__ import annotations

import argparse

from mmseg.utils import register_all_modules

from ..cli import add_runner_options, add_training_options
from ..terminal import say
from ..workflows.pretraining import RECIPES, begin, commit_of_checkout, config_of, evaluate, publish
from .config import add_cfg_options
from .test import format_table
from .train import prepare, run_training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('--arch', metavar='NAME', help='full name of the network (default: that of the recipe)')
    parser.add_argument('--data-root', metavar='DIR', help='where the data are (default: data/imagenet)')
    parser.add_argument(
        '--recipe',
        default='paper-120e',
        help=f'{", ".join(RECIPES)} or a config file (default: %(default)s)',
    )
    parser.add_argument('--custom-l2', action='store_true', help="the authors' custom L2 in place of weight decay")
    parser.add_argument('--compile', action='store_true', help='compile the network')
    parser.add_argument('--eval', metavar='WEIGHTS', help='evaluate a file, a URL or repvgg://NAME instead of training')
    parser.add_argument('--deploy', action='store_true', help='with --eval: also the converted form')
    parser.add_argument(
        '--resolution', type=int, nargs='+', metavar='N', help="with --eval: test sizes (default: the recipe's)"
    )
    add_training_options(parser)
    add_runner_options(parser, work_dir='work_dirs/RECIPE_ARCH')
    add_cfg_options(parser)


def main(args: argparse.Namespace) -> None:
    """Train or evaluate.

    Raises:
        ValueError: an option does nothing here.
    """
    if args.eval:
        for name in ('custom_l2', 'compile', 'resume', 'overwrite', 'amp'):
            if getattr(args, name):
                raise ValueError(f'--{name.replace("_", "-")} would do nothing with --eval')
    elif args.deploy or args.resolution:
        raise ValueError('--deploy and --resolution go with --eval WEIGHTS')
    named = {'model.arch': args.arch, 'data_root': args.data_root, 'model.compiled': args.compile}
    options = args.cfg_options | {key: value for key, value in named.items() if value}
    cfg = config_of(args.recipe, options)
    register_all_modules()
    prepare(cfg, args.launcher, amp=args.amp)
    if not args.eval:
        commit = commit_of_checkout()  # of the code that trains, whatever is checked out at the end
        with begin(
            cfg,
            recipe=args.recipe,
            custom_l2=args.custom_l2,
            work_dir=args.work_dir,
            resume=args.resume,
            overwrite=args.overwrite,
        ) as runner:
            for path in publish(run_training(runner), commit):
                say(f'wrote {path}')
        return
    results = evaluate(cfg, args.eval, deploy=args.deploy, resolutions=args.resolution, work_dir=args.work_dir)
    for resolution, forms in results.items():
        say(f'{resolution}x{resolution}', *format_table(forms, ('top1', 'top5')).splitlines())
