"""Write a folder with an exported model that others can use: file, weights, classes, reports and a model card.

    repvgg-seg publish work_dirs/demo/deploy/model.onnx published --license apache-2.0 --data "CamVid, train"
    repvgg-seg predict file:///home/me/published photos --out masks

`hf upload USER/NAME published` of huggingface_hub brings it to Hugging Face's hub, and hf://USER/NAME@REVISION opens
it from there.
"""

from __future__ import annotations

import argparse

from ..cli import add_trust
from ..deploy.publish import WEIGHTS, publish
from ..terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('model', metavar='MODEL', help='an exported file, or a work directory that has one')
    parser.add_argument('out', metavar='OUT', help='folder to write, new')
    parser.add_argument(
        '--license', default='unknown', metavar='ID', help="a licence's name on the hub (default: %(default)s)"
    )
    parser.add_argument('--data', metavar='TEXT', help='what it was trained on')
    parser.add_argument('--results', metavar='FILE', help='what `repvgg-seg test --json FILE` measured')
    add_trust(parser)


def main(args: argparse.Namespace) -> None:
    """Publish, and list the files."""
    options = vars(args)
    written = publish(options.pop('model'), options.pop('out'), **options)
    for name, digest in written.items():
        say(f'{digest}  {name}')
    if WEIGHTS not in written:
        say('without weights: deploy.pth, from which the file was exported, does not lie beside it')
    if args.license == 'unknown':
        say('README.md has no licence yet: --license names one')
