"""Images of other sizes and aspects than an exported file's: the mIoU and the time of each way to fit them.

The test images are enlarged bicubically or shrunk by area, or cropped to an aspect from the middle. Masks are compared
at the size of the image. "own shape" is the network in torch at the size that the test pipeline makes of the image.
"""

from __future__ import annotations

import argparse
import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmseg.apis import inference_model, init_model
from mmseg.registry import DATASETS
from mmseg.utils import register_all_modules
from rich.console import Console
from rich.progress import track

from ..apps.config import add_config
from ..openmmlab.datasets import inner_data_sets
from ..runtime.segmenter import FITS, Segmenter
from ..terminal import label
from ..weights.pretrained import load_weights, resolve
from ..workflows.config import load_config
from ..workflows.evaluation import class_rows, confusion, reader
from ..workflows.splits import check_data
from ..workflows.work_dir import find_checkpoint
from .report import Row

Array = np.ndarray[Any, Any]
Change = Callable[[Array], Array]  # of an image (H, W, 3) or its labels (H, W)
OWN_SHAPE = 'own shape'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config(parser)
    parser.add_argument('checkpoint', metavar='CHECKPOINT', help='the weights, a file or a work directory')
    parser.add_argument('file', metavar='FILE', help='what was exported of them, with --output logits or classes')
    parser.add_argument(
        '--kinds', nargs='+', default=['0.5x', '1x', '1.5x', '2x', '3x', '4:3', '1:1', '3:4', '16:9'], metavar='KIND',
        help='scales such as 2x, and aspects such as 4:3 (width:height) (default: 0.5x 1x 1.5x 2x 3x 4:3 1:1 3:4 16:9)',
    )  # fmt: skip
    parser.add_argument('--every', type=int, default=1, metavar='N', help='take every N-th test image (default: 1)')


def run(args: argparse.Namespace) -> list[Row]:
    """Measure each kind of images with each way.

    Raises:
        FileNotFoundError: the config, the checkpoint, the file or the data is not there.
        ValueError: a kind is none, --every is below 1, or the file does not fit the data.
    """
    if args.every < 1:
        raise ValueError('--every begins at 1, which takes all images')
    register_all_modules()
    cfg = load_config(args.config, args.cfg_options)
    changes = {kind: _change(kind) for kind in args.kinds}
    check_data(cfg, 'test_dataloader')
    data = DATASETS.build(cfg.test_dataloader.dataset)
    classes = data.metainfo['classes']
    read = reader(next(inner_data_sets(cfg.test_dataloader.dataset)).pipeline[0])
    indices = range(0, len(data), args.every)
    model = init_model(cfg, device='cpu')
    load_weights(model, resolve(find_checkpoint(args.checkpoint)))

    def own_shape(image: Array) -> Array:
        found: Array = inference_model(model, image[..., ::-1]).pred_sem_seg.data[0].numpy()
        return found

    ways: dict[str, Callable[[Array], Array]] = {OWN_SHAPE: own_shape}
    ways |= {fit: Segmenter(args.file, fit=fit) for fit in FITS}
    rows = []
    for kind, change in changes.items():
        counts: dict[str, list[Array]] = {way: [] for way in ways}
        times: dict[str, list[float]] = {way: [] for way in ways}
        for index in track(indices, label(f'Images {kind}'), console=Console(stderr=True)):
            image = change(read(data.get_data_info(index)['img_path']))
            labels = change(data[index]['data_samples'].gt_sem_seg.data[0].numpy().astype(np.int32))
            for way, segment in ways.items():
                start = time.process_time()
                with warnings.catch_warnings():  # that the image has another size is what is measured
                    warnings.simplefilter('ignore')
                    mask = segment(image)
                times[way].append(1000 * (time.process_time() - start))
                truth, predicted = (torch.from_numpy(x.astype(np.int64)) for x in (labels, mask))
                found = confusion(truth, predicted, len(classes))
                counts[way].append(found.numpy())
        for way in ways:
            summed = {way: {'confusion': np.sum(counts[way], axis=0)}}
            ious = [row['IoU'] for row in class_rows(summed, classes)]
            extra = {'images': len(indices), 'network': Path(args.config).stem}
            miou = float(np.mean([iou for iou in ious if iou is not None]))
            rows.append(Row(kind, way, '', 'mIoU', miou, '%', extra))
            rows.append(Row(kind, way, '', 'CPU time', float(np.median(times[way])), 'ms', extra))
    return rows


def _change(kind: str) -> Change:
    """Return what makes images of a kind.

    Raises:
        ValueError: there is no such kind.
    """
    if found := re.fullmatch(r'(\d+(?:\.\d+)?)x', kind):
        scale = float(found[1])

        def scaled(pixels: Array) -> Array:
            size = tuple(max(1, round(scale * n)) for n in pixels.shape[1::-1])
            smooth = cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA
            return cv2.resize(pixels, size, interpolation=smooth if pixels.ndim == 3 else cv2.INTER_NEAREST)

        if scale:
            return scaled
    if (found := re.fullmatch(r'(\d+):(\d+)', kind)) and int(found[1]) and int(found[2]):
        aspect = int(found[1]) / int(found[2])

        def cropped(pixels: Array) -> Array:
            height, width = pixels.shape[:2]
            h, w = min(height, round(width / aspect)), min(width, round(height * aspect))
            y, x = (height - h) // 2, (width - w) // 2
            return np.ascontiguousarray(pixels[y : y + h, x : x + w])

        return cropped
    raise ValueError(f'{kind!r} is neither a scale such as 2x nor an aspect such as 4:3')
