"""How an image of any size goes through a graph of one size: resized, then cut into overlapping tiles.

Either step may be left out: an image of the graph's size is one tile. `Route.cut` yields the pieces that the graph
takes, and `Route.paste` puts the graph's result for a piece into the whole. Without resizing, the image is
never copied as a whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
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
    padded with `colour`. Tiles are read row by row, one at a time, so an image that is not resized may be a memory map.
    """

    def __init__(
        self,
        shape: Size,
        size: Size,
        inside: Size | None = None,
        overlap: tuple[int, int] = (0, 0),
        interpolation: str = 'bilinear',
        colour: Sequence[int] = MEAN_COLOUR,
    ) -> None:
        self.shape, self.size, self.inside = shape, size, inside or shape
        self.interpolation, self.colour = INTERPOLATIONS[interpolation], colour
        self.rows, self.columns = map(spans, self.inside, size, overlap)
        self.count = len(self.rows) * len(self.columns)

    def cut(self, image: Array) -> Iterator[tuple[tuple[Span, Span], Array]]:  # (H, W, C) -> places and (h, w, C)
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
        place: tuple[Span, Span],
        piece: Array,  # (h, w) classes or (classes, h, w) logits
        mask: Mask,
        confidence: Confidence | None = None,
        threshold: float | None = None,
    ) -> None:
        """Copy the middle of a tile to its place in the image.

        Logits of an image that is one tile are resized to the image before they are compared, as mmseg does;
        classes, and logits of several tiles, are decided first and resized by nearest neighbour.
        """
        if piece.ndim == 3:
            h, w = self.inside
            whole = self.count == 1
            logits, size = (piece[:, :h, :w], self.shape) if whole else (piece, self.size)
            piece, certainty = decide(logits, size, threshold, confidence is not None)
            if whole:
                mask[:] = piece
            if whole and confidence is not None:
                confidence[:] = certainty
            elif confidence is not None:
                self._paste(place, certainty, confidence)
            if whole:
                return
        self._paste(place, piece, mask)

    def _paste(self, place: tuple[Span, Span], piece: Array, into: Array) -> None:
        source, target = zip(*map(_nearest, place, self.inside, self.shape), strict=True)
        into[target[0], target[1]] = piece[source[0]][:, source[1]]


def _nearest(span: Span, inside: int, length: int) -> tuple[Any, slice]:
    """Return, along one axis, which pixels of a tile are copied, and to which pixels of the image."""
    if inside == length:
        return slice(span.keep - span.start, span.stop - span.start), slice(span.keep, span.stop)
    # Pixel y of the image, whose centre is y + 1/2, takes pixel floor((y + 1/2) * inside / length).
    begin, end = (-((inside - 2 * n * length) // (2 * inside)) for n in (span.keep, span.stop))
    taken = ((2 * np.arange(begin, end) + 1) * inside) // (2 * length)
    return taken - span.start, slice(begin, end)


def decide(
    logits: Array,  # (classes, h, w)
    size: Size,
    threshold: float | None,
    with_confidence: bool,
) -> tuple[Mask, Any]:
    """Return the classes (H, W) of logits that are resized to `size` bilinearly and, if asked, their probabilities.

    The probability is that of a softmax. A single channel is a sigmoid, and `threshold` separates its two classes.
    Resized planes are compared one by one, so that no more than a few of them are in memory.

    Raises:
        ValueError: a single channel without a threshold, which older files do not hold.
    """
    planes = (
        plane if plane.shape == size else cv2.resize(plane, size[::-1], interpolation=cv2.INTER_LINEAR)
        for plane in logits
    )
    best = np.array(next(planes), np.float32)
    if len(logits) == 1:
        if threshold is None:
            raise ValueError('the file does not hold the threshold of its sigmoid: export the model again')
        probability = 1 / (1 + np.exp(-best))
        mask = probability > threshold
        return mask.astype(np.uint8), np.where(mask, probability, 1 - probability) if with_confidence else None
    mask = np.zeros(size, np.uint8 if len(logits) <= 256 else np.uint16)
    total = np.ones(size if with_confidence else (0,), np.float32)  # of the exponentials, over that of the best
    for index, plane in enumerate(planes, 1):
        better = plane > best
        if with_confidence:
            part = np.exp(-np.abs(plane - best))
            total = np.where(better, total * part + 1, total + part)
        mask[better] = index
        np.maximum(best, plane, out=best)
    return mask, 1 / total if with_confidence else None
