"""What the readers of label files return, and how it is drawn into a mask.

Each shape is filled as the tool that wrote it fills it: polygons of COCO, CVAT and YOLO as pycocotools does, labelme's
as labelme does with Pillow, so that a mask is the one that the tool shows.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from PIL import Image, ImageDraw

from ...environment import optional
from ..masks import IGNORED, Color

Size = tuple[int, int]  # (H, W)
Polygon = list[float]  # x, y, x, y, ...

FARTHEST = 100_000  # pixels: a coordinate beyond is damage, and filling up to it would take gigabytes


class LabelError(ValueError):
    """Labels that cannot be imported; the message is one sentence for the user."""


class Patch(NamedTuple):
    """Pixels of an image: a mask of bool whose upper left corner is at (y, x)."""

    y: int
    x: int
    mask: Any  # (h, w) bool


@dataclass(frozen=True)
class Shape:
    """One object of an image: its class (None: not to be learnt) and what says where it is."""

    label: str | None
    kind: Literal['polygons', 'rle', 'patch', 'polygon', 'rectangle', 'circle']  # the last three are labelme's
    geometry: Any  # polygons, an RLE of COCO, a Patch, or the points of labelme
    layer: int = 0  # higher ones are drawn over lower ones


@dataclass(frozen=True)
class Mask:
    """A mask that the tool drew: the class (None: not to be learnt) of each colour and, of palettes, of each index."""

    path: Path
    colors: Mapping[Color, str | None]
    indices: Mapping[int, str | None] | None = None


@dataclass
class Record:
    """One labelled image."""

    name: str  # of image and mask in the result, without suffix
    image: Path
    shapes: list[Shape] = field(default_factory=list)
    mask: Mask | None = None
    size: Size | None = None  # of the image, as the labels tell
    split: str = ''  # train, val or test, where the source tells
    embedded: Path | None = None  # the labelme file that holds the image itself


@dataclass
class Labels:
    """All labels of a source: its classes in order, with their colours where it tells any, and its images."""

    classes: dict[str, Color | None]
    records: list[Record]
    fills: bool = True  # whether what no shape covers is a class of its own, the background


@dataclass
class Notes:
    """What was left out or is odd: reason -> how often, and the first places."""

    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, list[str]] = field(default_factory=dict)

    def add(self, reason: str, where: object, count: int = 1) -> None:
        """Note one thing."""
        self.counts[reason] += count
        found = self.examples.setdefault(reason, [])
        if len(found) < 3 and str(where) not in found:
            found.append(str(where))

    def update(self, others: Iterable[tuple[str, object]]) -> None:
        """Note several."""
        for reason, where in others:
            self.add(reason, where)


def polygon(values: Any) -> Polygon:
    """Return the coordinates of a polygon, given flat or in pairs.

    Raises:
        LabelError: they are none; the message is the reason for which it is left out.
    """
    try:
        flat = [float(v) for value in values for v in (value if isinstance(value, list | tuple) else (value,))]
    except (TypeError, ValueError):
        raise LabelError('polygons that are not made of numbers') from None
    if len(flat) % 2 or not all(map(math.isfinite, flat)):
        raise LabelError('polygons that are not made of numbers')
    if len({(flat[i], flat[i + 1]) for i in range(0, len(flat), 2)}) < 3:
        raise LabelError('polygons of fewer than three points')
    if max(map(abs, flat)) > FARTHEST:
        raise LabelError(f'shapes more than {FARTHEST} pixels away from the image')
    return flat


def fill(shape: Shape, size: Size) -> Patch:
    """Return the pixels of a shape within an image of `size`.

    Raises:
        LabelError: it does not fit an image of this size.
    """
    if shape.kind == 'rle':
        return Patch(0, 0, _decode(shape.geometry, size))
    if shape.kind == 'patch':
        y, x, mask = shape.geometry
        top, left = max(-y, 0), max(-x, 0)
        return Patch(y + top, x + left, mask[top : max(size[0] - y, 0), left : max(size[1] - x, 0)])
    rings = shape.geometry if shape.kind == 'polygons' else [shape.geometry]
    points = [np.reshape(ring, (-1, 2)) for ring in rings]
    if shape.kind == 'circle':
        centre, rim = points[0]
        points = [np.stack([centre - math.dist(centre, rim), centre + math.dist(centre, rim)])]
    # Only the box around the shape is drawn. Moved by whole pixels, it covers the same pixels.
    low = np.maximum(np.floor(np.min([p.min(0) for p in points], 0)) - 1, 0).astype(int)
    high = np.minimum(np.ceil(np.max([p.max(0) for p in points], 0)) + 2, size[::-1]).astype(int)
    if (high <= low).any():
        return Patch(0, 0, np.zeros((0, 0), bool))
    width, height = (int(n) for n in high - low)
    points = [p - low for p in points]
    if shape.kind == 'polygons':
        coco = optional('pycocotools.mask', 'labels', 'filling polygons')
        rle = coco.merge(coco.frPyObjects([p.ravel().tolist() for p in points], height, width))
        mask = _decode({**rle, 'counts': rle['counts'].decode()}, (height, width))
        return Patch(int(low[1]), int(low[0]), mask)
    picture = Image.new('1', (width, height))
    draw = ImageDraw.Draw(picture)
    xy = [(float(x), float(y)) for x, y in points[0]]
    if shape.kind == 'polygon':
        draw.polygon(xy, fill=1, outline=1)
    else:
        corners = [tuple(np.min(xy, 0)), tuple(np.max(xy, 0))]
        (draw.ellipse if shape.kind == 'circle' else draw.rectangle)(corners, fill=1, outline=1)
    return Patch(int(low[1]), int(low[0]), np.array(picture))


def unroll(runs: Any, height: int, width: int) -> Any:
    """Return the mask (H, W) of bool of runs of what is not, what is, what is not the object and so on, row by row.

    Raises:
        ValueError: they are not as many pixels.
    """
    runs = np.asarray(runs, np.int64)
    if runs.ndim != 1 or (runs < 0).any() or int(runs.sum()) != height * width:
        raise ValueError('the runs are not as long as the mask has pixels')
    return np.repeat(np.arange(len(runs)) % 2 == 1, runs).reshape(height, width)


def _decode(rle: Mapping[str, Any], size: Size) -> Any:
    """Return the mask of an RLE of COCO, which runs down the columns; pycocotools does not see where one is damaged."""
    counts = rle['counts']
    try:
        if tuple(rle['size']) != size:
            raise ValueError('it is of another size')
        return unroll(counts if isinstance(counts, list) else _numbers(counts), *size[::-1]).T
    except (TypeError, ValueError, LookupError, OverflowError) as error:
        raise LabelError('RLE masks that are damaged or of another size than the image') from error


def _numbers(text: str) -> list[int]:
    """Return the runs of a compressed RLE: numbers of 5 bits a character, the lowest first.

    From the fourth on, a number is the difference to the last but one.
    """
    numbers: list[int] = []
    value = shift = 0
    for character in text.encode('ascii'):
        bits = character - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError('a character is none of a compressed RLE')
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) << shift - 4  # the sign
            numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
            value = shift = 0
    return numbers


def draw(record: Record, classes: Mapping[str, int], base: int, size: Size) -> tuple[Any, list[str]]:
    """Return the mask (H, W) of a record, uint8, and what was left out of it.

    Smaller shapes are drawn over larger ones, except across layers; `base` is what is under all of them. What has no
    index in `classes` becomes 255.

    Raises:
        LabelError: the tool's own mask cannot be read or is of another size.
    """
    if record.mask is not None:
        return _translate(record.mask, classes, size)
    notes: list[str] = []
    drawn: list[tuple[int, int, Shape]] = []
    for shape in record.shapes:
        try:
            area = int(fill(shape, size).mask.sum())
        except LabelError as error:
            notes.append(str(error))
            continue
        if area:
            drawn.append((shape.layer, -area, shape))
        else:
            notes.append('shapes outside of the image or without a pixel')
    mask = np.full(size, base, np.uint8)
    for _, _, shape in sorted(drawn, key=lambda item: item[:2]):
        y, x, pixels = fill(shape, size)  # once more, as all of them would not fit into memory
        mask[y : y + pixels.shape[0], x : x + pixels.shape[1]][pixels] = _index(classes, shape.label)
    return mask, notes


def _translate(mask: Mask, classes: Mapping[str, int], size: Size) -> tuple[Any, list[str]]:
    try:
        with Image.open(mask.path) as image:
            indexed = mask.indices is not None and image.mode in ('P', 'L', '1')
            codes = np.asarray(image if indexed else image.convert('RGB')).astype(np.int64)
    except FileNotFoundError:
        raise LabelError('images whose mask is not there') from None
    except (OSError, SyntaxError, ValueError) as error:
        raise LabelError('images whose mask cannot be read') from error
    if codes.shape[:2] != size:
        raise LabelError('images of another size than their labels')
    table: Mapping[Any, str | None] = mask.colors
    if indexed:
        assert mask.indices is not None
        table = mask.indices
    else:
        table = {_code(*color): label for color, label in mask.colors.items()}
        codes = _code(codes[..., 0], codes[..., 1], codes[..., 2])
    values, inverse = np.unique(codes, return_inverse=True)
    indices = np.array([_index(classes, table.get(int(value))) for value in values], np.uint8)
    unknown = [f'values in masks that no class has ({"colours" if not indexed else "indices"})'] * any(
        int(value) not in table for value in values
    )
    return indices[inverse].reshape(size), unknown


def _index(classes: Mapping[str, int], label: str | None) -> int:
    return IGNORED if label is None else classes.get(label, IGNORED)


def _code(red: Any, green: Any, blue: Any) -> Any:
    return (red << 16) | (green << 8) | blue
