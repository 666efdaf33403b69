"""Turn the labels of other tools into masks of class indices, the form that training reads.

    repvgg-seg import-labels annotations/instances_default.json data/mine
    repvgg-seg import-labels labelme-folder data/mine --val 0.2 --group '^[^_]+'

SOURCE is a file or folder of COCO (polygons, RLE, panoptic), labelme, CVAT ("CVAT for images 1.1"), Pascal VOC (masks)
or YOLO (polygons). OUT gets classes.json, images/ and masks/, each with train/ and val/, and import.json, the report.
docs/data.md tells how each is drawn, and what is left out.
"""

from __future__ import annotations

import argparse

from ..cli import add_workers
from ..data.importers.folder import describe, import_labels
from ..data.importers.formats import READERS
from ..terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('source', metavar='SOURCE', help='file or folder of labels')
    parser.add_argument('out', metavar='OUT', help='folder to write, new or empty')
    parser.add_argument('--format', choices=['auto', *READERS], default='auto', help='(default: what it looks like)')
    parser.add_argument('--images', metavar='PATH', help='where the images are (default: with the labels)')
    parser.add_argument('--classes', metavar='FILE', help='a classes.json that fixes the order and colours of classes')
    parser.add_argument(
        '--val', type=float, metavar='SHARE', help="of the images for val (default: the source's own splits, or 0.2)"
    )
    parser.add_argument(
        '--group', metavar='REGEX', help='what must not be split: images in whose names this finds the same'
    )
    parser.add_argument('--overwrite', action='store_true', help='replace an earlier import')
    add_workers(parser)


def main(args: argparse.Namespace) -> None:
    """Import, and print what was left out."""
    options = vars(args)
    say(*describe(import_labels(classes_file=options.pop('classes'), **options)), f'wrote {args.out}')
