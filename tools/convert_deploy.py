"""Convert a trained segmentor or ImageNet classifier to plain 3x3 convolutions and prove that it is the same function.

    python tools/convert_deploy.py configs/pspnet_repvgg_a0_demo.py work_dirs/pspnet_repvgg_a0_demo deploy/demo
    python tools/convert_deploy.py RepVGG-B2 RepVGG-B2-train.pth deploy/b2

Writes deploy.pth (weights; loads with weights_only=True), report.json (deviations, sizes, hashes, versions) and, for a
segmentor, deploy.py, its config: mmseg.apis.init_model('deploy.py', 'deploy.pth') runs the two.
If the two forms are not equal nothing is written.
"""

from __future__ import annotations

import argparse
import sys

from repvgg_seg.cli import command


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('model', help='config of a segmentor, or the full name of a classifier such as RepVGG-B2')
    parser.add_argument('checkpoint', help='its weights: a file, a URL, repvgg://NAME, or a work directory')
    parser.add_argument('out_dir', help='where the converted model goes')
    args = parser.parse_args(argv)
    if args.model.endswith('.py'):
        from repvgg_seg.apps import convert_deploy as conversion

        report = conversion.convert_checkpoint(args.model, args.checkpoint, args.out_dir)
    else:
        from repvgg_seg.deploy import convert

        report = convert.convert_checkpoint(args.model, args.checkpoint, args.out_dir)
    for deviation in report['verification']:
        height, width = deviation['input_size']
        print(
            f'{deviation["check"]:>8} {height}x{width}: largest deviation {deviation["max_rel"]:.2e} relative, '
            f'{deviation["agreement"]:.4%} of the classes agree'
        )
    before, after = report['parameters']['train'], report['parameters']['deploy']
    print(f'{before:,} parameters while training, {after:,} deployed; wrote {args.out_dir}')


if __name__ == '__main__':
    sys.exit(main())
