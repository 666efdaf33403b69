"""Convert weights between dialects, so that other frameworks can use what is trained here.

    python tools/convert_weights.py work_dirs/imagenet/best.pth repvgg_a0.pth --to timm
    python tools/convert_weights.py repvgg://RepVGG-B2 RepVGG-B2.safetensors --to safetensors

The input is a file in any dialect, a URL or repvgg://NAME. `openmmlab` are the names of mmpretrain's RepVGG,
`timm` those of timm's repvgg_*, `official` those of the authors' code; `safetensors` are this package's
own names (official, but for RepVGGplus) in a .safetensors file. The authors and timm have no segmentors: only the
backbone of one is converted for them.
"""

from __future__ import annotations

import argparse

from ..terminal import say
from ..weights.checkpoint_io import WeightsError, write_checkpoint
from ..weights.key_maps import from_official, is_segmentor
from ..weights.pretrained import check_complete, read_weights


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('input', metavar='IN', help='weights: a file, a URL or repvgg://NAME')
    parser.add_argument('output', metavar='OUT', help='file to write; a name in .safetensors makes it one')
    parser.add_argument(
        '--to', required=True, choices=('official', 'openmmlab', 'timm', 'safetensors'), help='the names to write'
    )
    parser.add_argument(
        '--ema',
        action=argparse.BooleanOptionalAction,
        help='take the averaged weights or, with --no-ema, those of the last step, of a file that holds both',
    )


def main(args: argparse.Namespace) -> None:
    """Convert, and say what was left out.

    Raises:
        WeightsError: the weights cannot be read, or are not complete.
    """
    if args.to == 'safetensors' and not args.output.lower().endswith('.safetensors'):
        raise WeightsError(f'{args.output} would not be recognised: give it a name that ends in .safetensors')
    tensors = read_weights(args.input, ema=args.ema)
    try:
        check_complete(tensors)
    except WeightsError as error:
        raise WeightsError(f'{args.input}: {error}') from error
    left_out = 0
    if args.to in ('official', 'timm') and is_segmentor(tensors):
        trunk = {k.removeprefix('backbone.'): v for k, v in tensors.items() if k.startswith('backbone.')}
        tensors, left_out = trunk, len(tensors) - len(trunk)
    if args.to != 'safetensors':
        tensors = from_official(tensors, args.to)
    write_checkpoint(tensors, args.output)
    note = f'; {left_out} tensors of segmentation heads were left out' if left_out else ''
    say(f'wrote {args.output}: {len(tensors)} tensors from {args.input}{note}')
