"""Segment files, folders, globs, videos and cameras with an exported model.

    python tools/predict.py deploy/demo.onnx photos/ 'drives/**/*.png' trip.mp4 --out masks
    python tools/predict.py deploy/demo.xml 0 --out camera --frames 100

INPUT is an image, a folder, a quoted glob, a video, the number of a camera or the address of a live stream.
Below --out, index/ gets class indices as PNG files (8 bits; 16 above 256 classes), colour/ the palette's colours,
overlay/ those over the image, area/ the pixels and the share of each class as JSON, and confidence/, of files that were
exported with --output logits, 255 times the probability of each pixel's class; each mirrors the folders of the inputs.
A video gets a folder of indices, one file a frame, two videos and one JSON file. `--save polygons` writes polygons.json
of images, a COCO file that tools for labelling take.

What is finished is left out, so after an interruption the same command goes on. Under torchrun each process takes its
share. Torch is needed for .pt2 models only.

The status is 0; 1 if inputs could not be read, which are listed; 2 after an error; 130 after Ctrl-C. A video that ends
before its end is listed, too. Under torchrun the status stays 0 then, as 1 would end the other processes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from ..cli import add_trust
from ..runtime.backends import BACKENDS, MODES
from ..runtime.metadata import FITS
from ..runtime.predict import OUTPUTS, find_inputs, predict, share
from ..runtime.segmenter import Segmenter
from ..terminal import say


def add_segmenter(parser: argparse.ArgumentParser) -> None:
    """Declare the model, and how it runs."""
    parser.add_argument('model', help='an exported file (.onnx, .xml, .pt2), or the address of a published model')
    parser.add_argument(
        '--fit', choices=['auto', *FITS], default='auto',
        help='prepare images as the test did, scale them, or cut them into tiles (default: what the file says)',
    )  # fmt: skip
    parser.add_argument(
        '--overlap', type=int, metavar='PIXELS', help='of tiles (default: a quarter of their shorter side)'
    )
    parser.add_argument(
        '--backend',
        choices=['auto', *BACKENDS],
        default='auto',
        help='what runs the file (default: the fastest that is there)',
    )
    parser.add_argument('--device', default='auto', help="cpu, cuda or one of OpenVINO's (default: auto)")
    parser.add_argument(
        '--mode', choices=MODES, default='latency',
        help='OpenVINO runs one image on all cores (default), or several at once',
    )  # fmt: skip
    add_trust(parser)


def open_segmenter(args: argparse.Namespace) -> Segmenter:
    """Return the model that the arguments name."""
    names = ('backend', 'device', 'mode', 'fit', 'overlap', 'trust')
    return Segmenter(args.model, **{name: getattr(args, name) for name in names})


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_segmenter(parser)
    parser.add_argument('inputs', nargs='+', metavar='INPUT', help='file, folder, glob, video, camera or address')
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='where the results go')
    parser.add_argument(
        '--save', nargs='+', choices=OUTPUTS, metavar='KIND',
        help=f'write these only: {", ".join(OUTPUTS)}',
    )  # fmt: skip
    parser.add_argument(
        '--below', type=float, metavar='PROBABILITY',
        help='list the images, those first of whose pixels most are less certain than this: what to label next',
    )  # fmt: skip
    parser.add_argument('--overwrite', action='store_true', help='do what is finished again')
    parser.add_argument('--frames', type=int, metavar='N', help='of each video or camera take N frames at most')


def main(args: argparse.Namespace) -> int:
    """Segment, and say what was left out."""
    inputs, rank, processes = share(find_inputs(args.inputs, args.out))
    segmenter = open_segmenter(args)
    summary = predict(
        segmenter, inputs, args.out, save=args.save, below=args.below, overwrite=args.overwrite, frames=args.frames,
        quiet=rank > 0,
    )  # fmt: skip
    finished = f', {summary.finished} inputs were finished before' if summary.finished else ''
    say(f'{summary.segmented} images segmented in {segmenter.backend}{finished}; results: {args.out}')
    for name, uncertain in summary.uncertain.items():
        say(f'{uncertain:7.2%}  {name}')
    for name, reason in summary.left_out.items():
        say(f'left out: {reason if name in reason else f"{name}: {reason}"}', error=True)
    return 1 if summary.left_out and processes == 1 else 0
