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
import sys

from repvgg_seg.cli import add_runner_options, command


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    from mmengine.config import DictAction

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--arch', help='full name of the network (default: that of the recipe)')
    parser.add_argument('--data-root', metavar='DIR', help='where the data are (default: data/imagenet)')
    parser.add_argument(
        '--recipe',
        default='paper-120e',
        help='paper-120e, paper-200e, plus-300e or a config file (default: %(default)s)',
    )
    parser.add_argument('--custom-l2', action='store_true', help="the authors' custom L2 in place of weight decay")
    parser.add_argument('--compile', action='store_true', help='compile the network')
    parser.add_argument('--eval', metavar='WEIGHTS', help='evaluate a file, a URL or repvgg://NAME instead of training')
    parser.add_argument('--deploy', action='store_true', help='with --eval: also the converted form')
    parser.add_argument(
        '--resolution', type=int, nargs='+', metavar='N', help="with --eval: test sizes (default: the recipe's)"
    )
    add_runner_options(parser, DictAction, training=True, work_dir='work_dirs/RECIPE_ARCH')
    args = parser.parse_args(argv)
    if args.eval:
        for name in ('custom_l2', 'compile', 'resume', 'amp'):
            if getattr(args, name):
                parser.error(f'--{name.replace("_", "-")} would do nothing with --eval')
    elif args.deploy or args.resolution:
        parser.error('--deploy and --resolution go with --eval WEIGHTS')
    return args


@command
def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    from repvgg_seg.apps import pretrain_imagenet as pretraining
    from repvgg_seg.apps.test import format_table

    named = {'model.arch': args.arch, 'data_root': args.data_root, 'model.compiled': args.compile}
    options = (args.cfg_options or {}) | {key: value for key, value in named.items() if value}
    cfg = pretraining.config_of(args.recipe, options)
    if not args.eval:
        written = pretraining.pretrain(
            cfg,
            recipe=args.recipe,
            custom_l2=args.custom_l2,
            work_dir=args.work_dir,
            resume=args.resume,
            amp=args.amp,
            launcher=args.launcher,
        )
        for path in written.values():
            print(f'wrote {path}')
        return
    results = pretraining.evaluate(
        cfg,
        args.eval,
        deploy=args.deploy,
        resolutions=args.resolution,
        work_dir=args.work_dir,
        launcher=args.launcher,
    )
    for resolution, forms in results.items():
        print(f'{resolution}x{resolution}\n{format_table(forms, ("top1", "top5"))}')


if __name__ == '__main__':
    sys.exit(main())
