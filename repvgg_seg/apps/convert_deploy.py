"""Convert a trained segmentor or ImageNet classifier to plain 3x3 convolutions and prove that it is the same function.

    python tools/convert_deploy.py work_dirs/pspnet_repvgg_a0_demo
    python tools/convert_deploy.py configs/pspnet_repvgg_a0_demo.py work_dirs/pspnet_repvgg_a0_demo deploy/demo
    python tools/convert_deploy.py RepVGG-B2 RepVGG-B2-train.pth deploy/b2

Writes deploy.pth (weights; loads with weights_only=True), report.json (deviations, sizes, hashes, versions) and, for a
segmentor, deploy.py, its config: mmseg.apis.init_model('deploy.py', 'deploy.pth') runs the two.
If the two forms are not equal nothing is written. A work directory, or a checkpoint of it, is enough: checkpoints
remember their config. For a checkpoint from elsewhere, name the config first.

    repvgg-seg convert-deploy --python mymodel:build weights.pth deploy/mine --classes data/mine/classes.json

converts a model of timm, segmentation_models.pytorch, mmpretrain or your own: `build` of mymodel.py returns it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..data.masks import read_classes
from ..deploy.convert import convert_classifier_checkpoint
from ..deploy.python_model import IMAGENET, convert_python_checkpoint
from ..models import variants
from ..terminal import say
from ..workflows.config import is_config
from ..workflows.deployed import convert_segmentor_checkpoint
from .config import add_cfg_options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        'words',
        nargs='+',
        metavar='MODEL',
        help='[CONFIG or full name of a classifier, such as RepVGG-B2] WEIGHTS [OUT]; the weights are a work '
        'directory, a file, a URL or repvgg://NAME',
    )
    parser.add_argument('--out', metavar='DIR', help='where the converted model goes (default: WORK_DIR/deploy)')
    parser.add_argument('--python', metavar='MODULE:FACTORY', help='the function that returns a model without weights')
    parser.add_argument('--classes', metavar='FILE', help='of --python: a classes.json with names and colours')
    for index, name in enumerate(('mean', 'std')):
        parser.add_argument(
            f'--{name}', type=float, nargs='+', metavar='RGB', default=IMAGENET[index],
            help=f'of --python: {name} of values from 0 to 1 (default: of ImageNet)',
        )  # fmt: skip
    add_cfg_options(parser)


def _read_words(words: list[str], out: str | None) -> tuple[str | None, str, str | Path]:
    """Return model, weights and output folder of a command line.

    Raises:
        ValueError: it has no weights, or no output folder, or two of them.
    """
    if words[0].startswith('RepVGG') and not Path(words[0]).exists() and not words[0].endswith(('.py', '.pth')):
        variants.get_variant(words[0])  # its error suggests the name that was meant
    named = words[0] in variants.VARIANTS or is_config(words[0])
    model, rest = (words[0], words[1:]) if named else (None, words)
    if not rest:
        raise ValueError(f'{model} has no weights to convert: name a work directory or a checkpoint after it')
    if len(rest) > 2 or (len(rest) == 2 and out):
        raise ValueError(f'{rest[-1]} is one folder too many: one takes the converted model')
    checkpoint = rest[0]
    if folder := out or (rest[1] if len(rest) == 2 else None):
        return model, checkpoint, folder
    if not Path(checkpoint).is_dir():
        raise ValueError(f'name the folder that is to take the converted {checkpoint}: --out DIR')
    return model, checkpoint, Path(checkpoint, 'deploy')


def main(args: argparse.Namespace) -> None:
    """Convert, and print the deviations."""
    model, checkpoint, out_dir = _read_words(args.words, args.out)
    if args.python is not None:
        known = read_classes(args.classes) if args.classes else None
        if model is not None or args.cfg_options:
            raise ValueError('a model of --python has no config: leave it and --cfg-options out')
        report = convert_python_checkpoint(
            args.python, checkpoint, out_dir, classes=known.names if known else (),
            palette=known.colors if known else (), mean=args.mean, std=args.std,
        )  # fmt: skip
    elif model is not None and model in variants.VARIANTS:
        if args.cfg_options:
            raise ValueError('a classifier has no config: leave --cfg-options out')
        report = convert_classifier_checkpoint(model, checkpoint, out_dir)
    else:
        report = convert_segmentor_checkpoint(model, checkpoint, out_dir, args.cfg_options)
    for deviation in report['verification']:
        height, width = deviation['input_size']
        say(
            f'{deviation["check"]:>8} {height}x{width}: largest deviation {deviation["max_rel"]:.2e} relative, '
            f'{deviation["agreement"]:.4%} of the classes agree'
        )
    if report.get('rounded'):
        say(
            f'    int8: {report["rounded"]["agreement"]:.4%} of the classes as the trained network has them; '
            'the weights lie on the steps of int8'
        )
    before, after = report['parameters']['train'], report['parameters']['deploy']
    say(f'one rounding of float32 comes out {report["amplification"]:.3g} times larger in the logits')
    say(f'{before:,} parameters while training, {after:,} deployed; wrote {out_dir}')
