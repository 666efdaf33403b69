"""Cityscapes' training masks, *_labelTrainIds.png, made from its *_labelIds.png or *_polygons.json."""

from __future__ import annotations

import os
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, ImageDraw

from ..files import atomic_write, parse_json, read_text, walk
from ..image_files import MAX_PIXELS, open_image
from ..parallel import parallel_map
from .cityscapes import LABELS, TRAIN_IDS, VOID

SUFFIX = '_labelTrainIds.png'
SOURCES = ('_labelIds.png', '_polygons.json')  # the first that is there is used
_BY_NAME = {label.name: label.train_id for label in LABELS}
_NOT_DRAWN = {'license plate'}  # its id is negative


def make_train_ids(root: str | os.PathLike[str], *, workers: int | None = None) -> tuple[int, int]:
    """Write each mask that is missing below `root`, and return how many were written and how many there are.

    Each file appears whole or not at all, so an interrupted call goes on where it stopped.

    Raises:
        FileNotFoundError: there is nothing to make masks from.
        ValueError: a source is damaged or holds labels that Cityscapes does not have.
    """
    folder = Path(root)
    # Polygons first, so that label ids, which are read much faster, replace them where both are there.
    sources = {
        str(path)[: -len(suffix)] + SUFFIX: str(path)
        for suffix in reversed(SOURCES)
        for path in (walk(folder, [suffix]) if folder.is_dir() else ())
    }
    if not sources:
        state = 'holds neither *_labelIds.png nor *_polygons.json' if folder.is_dir() else 'does not exist'
        raise FileNotFoundError(f'{folder} {state}: name the folder of Cityscapes that holds gtFine')
    missing = [target for target in sources if not Path(target).is_file()]
    masks = parallel_map(
        convert, [sources[target] for target in missing], workers=workers, description='Making train ids'
    )
    for target, mask in zip(missing, masks, strict=True):
        with atomic_write(target) as file:
            file.write(mask)
    return len(missing), len(sources)


def convert(source: str) -> bytes:
    """Return the training mask of one *_labelIds.png or *_polygons.json as a PNG file.

    Raises:
        ValueError: it is damaged, or holds a label that Cityscapes does not have.
    """
    try:
        train_ids = rasterise(read_text(source)) if source.endswith('.json') else _relabel(source)
    except Exception as error:  # whatever a broken or hostile file makes a reader raise
        raise ValueError(f'{source} cannot be converted ({error}): unpack it again') from error
    return cv2.imencode('.png', train_ids)[1].tobytes()


def _relabel(path: str) -> np.ndarray:
    with open_image(path) as image:
        ids = np.asarray(image)
    if ids.ndim != 2 or ids.max() > LABELS[-1].id:
        raise ValueError(f'label ids are one channel of 0–{LABELS[-1].id}')
    return TRAIN_IDS[ids]


def rasterise(content: str) -> np.ndarray:
    """Draw the polygons of one Cityscapes annotation as train ids, (H, W) uint8.

    Later objects cover earlier ones; deleted ones and license plates are left out; a group, such as "cargroup",
    counts as what it is a group of.

    Source: the rules by which Cityscapes' own tools draw their masks (Cordts et al., CVPR 2016).

    Raises:
        KeyError: a field or a label is not Cityscapes'.
        ValueError: it is not JSON.
    """
    annotation = parse_json(content)
    size = (annotation['imgWidth'], annotation['imgHeight'])
    if min(size) < 1 or size[0] * size[1] > MAX_PIXELS:
        raise ValueError(f'no camera takes an image of {size[0]}x{size[1]} pixels')
    mask = Image.new('L', size, VOID)
    draw = ImageDraw.Draw(mask)
    for thing in annotation['objects']:
        name = thing['label']
        if name not in _BY_NAME and name.endswith('group'):
            name = name.removesuffix('group')
        if thing.get('deleted') or name in _NOT_DRAWN:
            continue
        draw.polygon([tuple(point) for point in thing['polygon']], fill=_BY_NAME[name])
    return np.asarray(mask)
