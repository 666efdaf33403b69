"""How an image of any size goes through a graph of one size: resized, then cut into overlapping tiles.

Either step may be left out: an image of the graph's size is one tile. `Route.cut` yields the pieces that the graph
takes, and `Route.paste` puts the graph's result for a piece into the whole. Without resizing, the image is
never copied as a whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np

from .images import Array
from .metadata import MEAN_COLOUR

Size = tuple[int, int]  # (H, W)
Mask = np.ndarray[Any, Any]  # (H, W) class indices, uint8 or uint16
Confidence = np.ndarray[Any, Any]  # (H, W) float32: the probability of the class that the mask names
# mmcv's names for those of OpenCV, which it resizes by.
INTERPOLATIONS = {
    'nearest': cv2.INTER_NEAREST,
    'bilinear': cv2.INTER_LINEAR,
    'bicubic': cv2.INTER_CUBIC,
    'area': cv2.INTER_AREA,
    'lanczos': cv2.INTER_LANCZOS4,
}


@dataclass(frozen=True)
class Span:
    """One tile along one axis: it begins at `start`, and decides the classes from `keep` up to `stop`."""

    start: int
    keep: int
    stop: int


Place = tuple[Span, Span]


def spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Return the tiles that cover `length` pixels, each overlapping the next by at least `overlap`.

    Tiles lie `tile - overlap` apart, the last one at the image's end, so each sees as much of the image as there is;
    between two of them the middle of their overlap is the seam. Each pixel is kept by exactly one tile, and but for
    the image's own borders at least `overlap // 2` pixels inside it.
    """
    last = max(length - tile, 0)
    starts = [*range(0, last, tile - overlap), last]
    seams = [0, *((a + tile + b) // 2 for a, b in itertools.pairwise(starts)), length]
    return [Span(start, keep, stop) for start, (keep, stop) in zip(starts, itertools.pairwise(seams), strict=True)]


def pad(image: Array, size: Size, colour: Sequence[int]) -> Array:  # (H, W, C) -> (h, w, C)
    """Fill an image up to `size` with `colour`, to the right and below; as it is where that is its size."""
    if image.shape[:2] == size:
        return image
    padded = np.empty((*size, image.shape[2]), np.uint8)
    padded[:] = colour
    padded[: image.shape[0], : image.shape[1]] = image
    return padded


def fitted(shape: Size, size: Size) -> Size:
    """Return the largest (H, W) of the aspect ratio of `shape` that fits into `size`."""
    scale = min(size[0] / shape[0], size[1] / shape[1])
    height, width = (min(max(1, round(n * scale)), limit) for n, limit in zip(shape, size, strict=True))
    return height, width


class Route:
    """The way of an image of `shape` through a graph of `size`.

    It is resized to `inside` (H, W), by default its own shape, as mmseg's test pipeline resizes: without antialiasing,
    up or down. Then it is cut into tiles that overlap by `overlap` pixels (H, W), and what is smaller than one is
    padded with `colour`. Tiles are read row by row, one at a time, so an image that is not resized
    may be a memory map.

    Classes of tiles are cut in the middle of their overlap. Logits are averaged there, as mmseg averages those of
    windows, or with `centred` by weights that fall to the borders of tiles, which see least around them. Then they are
    resized to the image, with `align_corners` or not, and compared. Pasted in the order of `cut`, they take memory for
    one row of tiles.
    """

    def __init__(
        self,
        shape: Size,
        size: Size,
        inside: Size | None = None,
        overlap: tuple[int, int] = (0, 0),
        interpolation: str = 'bilinear',
        colour: Sequence[int] = MEAN_COLOUR,
        align_corners: bool = False,
        centred: bool = False,
    ) -> None:
        self.shape, self.size, self.inside = shape, size, inside or shape
        self.interpolation, self.colour = INTERPOLATIONS[interpolation], colour
        self.rows, self.columns = map(spans, self.inside, size, overlap)
        self.count = len(self.rows) * len(self.columns)
        self.align_corners, self.centred = align_corners, centred
        self._band: _Band | None = None

    def cut(self, image: Array) -> Iterator[tuple[Place, Array]]:  # (H, W, C) -> places and (h, w, C)
        """Yield each tile with its place: two spans."""
        if self.inside != self.shape:
            resized = cv2.resize(image, self.inside[::-1], interpolation=self.interpolation)
            image = resized.reshape(*self.inside, -1)  # of a single channel, OpenCV drops the axis
        h, w = self.size
        for row, column in itertools.product(self.rows, self.columns):
            tile = image[row.start : row.start + h, column.start : column.start + w]
            yield (row, column), pad(tile, self.size, self.colour)

    def paste(
        self,
        place: Place,
        piece: Array,  # (h, w) classes or (classes, h, w) logits
        mask: Mask,
        confidence: Confidence | None = None,
        threshold: float | None = None,
    ) -> None:
        """Put a tile where it belongs: of classes its middle, resized by nearest neighbour, of logits all of it."""
        if piece.ndim == 2:
            source, target = zip(*map(_nearest, place, self.inside, self.shape), strict=True)
            mask[target[0], target[1]] = piece[source[0]][:, source[1]]
            return
        self._band = self._band or _Band(self, len(piece))
        for rows, logits in self._band.finished(place, piece):
            part = slice(rows.begin, rows.end)
            planes = (_resized(plane, self.shape[1], rows, self.align_corners) for plane in logits)
            mask[part], certainty = decide(planes, len(piece), threshold, confidence is not None)
            if confidence is not None:
                confidence[part] = certainty


@dataclass(frozen=True)
class _Rows:
    """Rows `begin` to `end` of a resized map: each lies between two rows of the map, `weight` tells where."""

    begin: int
    end: int
    low: Any
    high: Any
    weight: Any


class _Band:
    """The logits of the row of tiles that is at work: tiles are added to it, and what no tile will change leaves it."""

    def __init__(self, route: Route, classes: int) -> None:
        self.route = route
        self.lines = _between(route.inside[0], route.shape[0], route.align_corners)
        self.begin, self.done = 0, 0  # the row of the map that the band begins with; rows of the image that left it
        if route.count > 1:
            h, w = route.size
            rows = min(h, route.inside[0]) + 1  # and one more, as rows of the image lie between two
            self.sums = np.zeros((classes, rows, route.inside[1]), np.float32)
            self.weights = np.zeros((rows, route.inside[1]), np.float32)
            sides = [np.minimum(np.arange(n) + 1, n - np.arange(n)) if route.centred else np.ones(n) for n in (h, w)]
            self.weight = np.outer(*sides).astype(np.float32)

    def finished(self, place: Place, logits: Array) -> Iterator[tuple[_Rows, Iterable[Array]]]:
        """Add a tile, and yield the rows of the image that are whole by it, with the planes of the map that make them.

        The rows of the map are counted from the first that is yielded with them.
        """
        (row, column), (height, width) = place, self.route.inside
        if self.route.count == 1:
            yield self._rows(height), logits[:, :height, :width]
            return
        yield from self._leave(row.start)
        if self.done == self.route.shape[0]:  # of a map that is made smaller, the last rows may not be needed
            return
        h, w = min(logits.shape[1], height), min(logits.shape[2], width)
        area = slice(row.start - self.begin, row.start - self.begin + h), slice(column.start, column.start + w)
        weight = self.weight[:h, :w]
        self.weights[area] += weight
        for plane, sums in zip(logits, self.sums, strict=True):
            sums[area] += weight * plane[:h, :w]
        if (row, column) == (self.route.rows[-1], self.route.columns[-1]):
            yield from self._leave(height)

    def _rows(self, stop: int) -> _Rows:
        """Return the rows of the image that need none of the map from `stop` on, but for those that have left."""
        low, high, weight = self.lines
        part = slice(self.done, int(np.searchsorted(high, stop)))
        return _Rows(part.start, part.stop, low[part] - self.begin, high[part] - self.begin, weight[part])

    def _leave(self, stop: int) -> Iterator[tuple[_Rows, Iterable[Array]]]:
        rows, size = self._rows(stop), stop - self.begin
        if rows.end > rows.begin:
            yield rows, (sums[:size] / self.weights[:size] for sums in self.sums)
            self.done = rows.end
        if rows.end == self.route.shape[0]:
            return
        if gone := min(int(self.lines[0][rows.end]), stop) - self.begin:
            for plane in (*self.sums, self.weights):
                plane[:-gone] = plane[gone:].copy()
                plane[-gone:] = 0
            self.begin += gone


def _between(n: int, length: int, align_corners: bool) -> tuple[Any, Any, Any]:
    """Return the two of `n` values that each is between that they are resized to, and how near it is to the second."""
    if align_corners:
        position = np.arange(length) * ((n - 1) / max(length - 1, 1))
    else:
        position = np.clip((np.arange(length) + 0.5) * (n / length) - 0.5, 0, n - 1)
    low = np.minimum(position.astype(np.int64), n - 1)
    return low, np.minimum(low + 1, n - 1), (position - low).astype(np.float32)


def _resized(plane: Array, width: int, rows: _Rows, align_corners: bool) -> Array:  # (h, w) -> (rows, width)
    """Return rows of a plane that is resized bilinearly, along the width first."""
    if plane.shape[1] != width and not align_corners:
        plane = cv2.resize(plane, (width, len(plane)), interpolation=cv2.INTER_LINEAR)
    elif plane.shape[1] != width:
        low, high, weight = _between(plane.shape[1], width, align_corners)
        plane = plane[:, low] * (1 - weight) + plane[:, high] * weight
    if not rows.weight.any():
        return plane[rows.low]
    return plane[rows.low] * (1 - rows.weight)[:, None] + plane[rows.high] * rows.weight[:, None]


def _nearest(span: Span, inside: int, length: int) -> tuple[Any, slice]:
    """Return, along one axis, which pixels of a tile are copied, and to which pixels of the image."""
    if inside == length:
        return slice(span.keep - span.start, span.stop - span.start), slice(span.keep, span.stop)
    # Pixel y of the image, whose centre is y + 1/2, takes pixel floor((y + 1/2) * inside / length).
    begin, end = (-((inside - 2 * n * length) // (2 * inside)) for n in (span.keep, span.stop))
    taken = ((2 * np.arange(begin, end) + 1) * inside) // (2 * length)
    return taken - span.start, slice(begin, end)


def decide(
    planes: Iterable[Array],  # (H, W), one for each class
    classes: int,
    threshold: float | None,
    with_confidence: bool,
) -> tuple[Mask, Any]:
    """Return the classes (H, W) of logits, and if asked how probable they are.

    The probability is that of a softmax or, of a single channel, of a sigmoid, whose two classes `threshold` separates.
    Planes are compared one by one, so that no more than a few of them are in memory.

    Raises:
        ValueError: a single channel without a threshold, which older files do not hold.
    """
    planes = iter(planes)
    best = np.array(next(planes), np.float32)
    if classes == 1:
        if threshold is None:
            raise ValueError('the file does not hold the threshold of its sigmoid: export the model again')
        probability = 1 / (1 + np.exp(-best))
        mask = probability > threshold
        return mask.astype(np.uint8), np.where(mask, probability, 1 - probability) if with_confidence else None
    mask = np.zeros(best.shape, np.uint8 if classes <= 256 else np.uint16)
    total = np.ones(best.shape if with_confidence else (0,), np.float32)  # of the exponentials, over that of the best
    for index, plane in enumerate(planes, 1):
        better = plane > best
        if with_confidence:
            part = np.exp(-np.abs(plane - best))
            total = np.where(better, total * part + 1, total + part)
        mask[better] = index
        np.maximum(best, plane, out=best)
    return mask, 1 / total if with_confidence else None
