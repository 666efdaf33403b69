"""Class maps as polygons: a COCO file, which tools for labelling take as a first guess to be corrected."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ..files import StrPath, read_text, write_text
from .tiling import Mask

# What nobody labels: the class of what no object covers.
UNLABELLED = frozenset({'background', '_background_', '__background__'})


def outlines(region: Any) -> list[int]:
    """Return the polygon around a connected region (H, W) of bool, along the edges of its pixels: x, y, x, y, ...

    Filled, it is the region again, holes included: each is reached by a cut of no width.
    """
    # Of an image twice as large, the contour through the middles of the border's pixels tells each edge.
    double = np.repeat(np.repeat(np.pad(region, 1).astype(np.uint8), 2, 0), 2, 1)
    contours, _ = cv2.findContours(double, cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE)
    rings = [_corners((contour[:, 0] + 1) // 2 - 1) for contour in contours]
    rings.sort(key=lambda ring: -np.ptp(ring, 0).prod())  # the outer one first
    path = rings[0]
    for hole in rings[1:]:
        nearest = int(np.abs(path - hole[0]).sum(1).argmin())
        path = np.concatenate([path[: nearest + 1], hole, hole[:1], path[nearest:]])
    return [int(value) for value in path.ravel()]


def _corners(ring: Any) -> Any:
    """Return the points (N, 2) of a closed ring at which it turns."""
    ring = ring[(ring != np.roll(ring, 1, 0)).any(1)]
    before, after = ring - np.roll(ring, 1, 0), np.roll(ring, -1, 0) - ring
    return ring[before[:, 0] * after[:, 1] != before[:, 1] * after[:, 0]]


def coco_file(file_name: str, mask: Mask, classes: Sequence[str]) -> dict[str, Any]:
    """Return a class map (H, W) as the content of a COCO file: a polygon for each region of each class.

    Regions are of one class and touch along edges of pixels. A class called background has none.
    """
    annotations: list[dict[str, Any]] = []
    for index in np.unique(mask).tolist():
        if classes[index].casefold() in UNLABELLED:
            continue
        count, regions, boxes, _ = cv2.connectedComponentsWithStats((mask == index).astype(np.uint8), connectivity=4)
        for number in range(1, count):
            x, y, width, height, area = (int(value) for value in boxes[number])
            flat = outlines(regions[y : y + height, x : x + width] == number)
            polygon = [value + (y if i % 2 else x) for i, value in enumerate(flat)]
            annotations.append(
                {
                    'id': len(annotations) + 1, 'image_id': 1, 'category_id': index + 1, 'segmentation': [polygon],
                    'area': area, 'bbox': [x, y, width, height], 'iscrowd': 0,
                }
            )  # fmt: skip
    height, width = mask.shape
    return {
        'images': [{'id': 1, 'file_name': file_name, 'height': height, 'width': width}],
        'annotations': annotations,
        'categories': [{'id': i + 1, 'name': name, 'supercategory': ''} for i, name in enumerate(classes)],
    }


def join_coco_files(paths: Iterable[Path], target: StrPath) -> None:
    """Write one COCO file of those of single images.

    Raises:
        FileError: one cannot be read, or the file cannot be written.
    """
    joined: dict[str, list[Any]] = {'images': [], 'annotations': [], 'categories': []}
    for path in paths:
        content = json.loads(read_text(path))
        joined['categories'] = content['categories']
        number = len(joined['images']) + 1
        joined['images'] += [{**content['images'][0], 'id': number}]
        for entry in content['annotations']:
            joined['annotations'].append({**entry, 'id': len(joined['annotations']) + 1, 'image_id': number})
    write_text(json.dumps(joined) + '\n', target)
