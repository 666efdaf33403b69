"""How an image of any size goes through a graph of one size: cut into overlapping tiles, or scaled to fit.

Both ways are frozen rules between three shapes with the same two steps: `cut` yields what the graph takes, one piece
at a time, and `paste` puts the graph's class map of a piece into the mask. Neither copies the image as a whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import cv2
import numpy as np

from .images import Array
from .metadata import MEAN_COLOUR

Size = tuple[int, int]  # (H, W)
Mask = np.ndarray[Any, Any]  # (H, W) class indices, uint8 or uint16


class Fit(Protocol):
    """A rule by which an image goes through the graph in `count` pieces."""

    @property
    def count(self) -> int:
        """How many pieces there are."""

    def cut(self, image: Array) -> Iterator[tuple[Any, Array]]:  # (H, W, C) -> places and (h, w, C)
        """Yield each piece with its place."""

    def paste(self, mask: Mask, place: Any, piece: Mask) -> None:  # (H, W), (h, w)
        """Put the class map of a piece where it belongs."""


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


class Tiles:
    """An image of `shape` in overlapping tiles of `size`, at its own scale; small images are padded.

    Of the image, one tile at a time is touched, row of tiles by row, so it may be a memory map.
    """

    def __init__(self, shape: Size, size: Size, overlap: int, colour: Sequence[int] = MEAN_COLOUR) -> None:
        self.size, self.colour = size, colour
        self.rows, self.columns = (spans(length, tile, overlap) for length, tile in zip(shape, size, strict=True))
        self.count = len(self.rows) * len(self.columns)

    def cut(self, image: Array) -> Iterator[tuple[tuple[Span, Span], Array]]:
        """Yield each tile with its two spans."""
        h, w = self.size
        for row, column in itertools.product(self.rows, self.columns):
            tile = image[row.start : row.start + h, column.start : column.start + w]
            yield (row, column), pad(tile, self.size, self.colour)

    def paste(self, mask: Mask, place: tuple[Span, Span], piece: Mask) -> None:
        """Keep the middle of a tile."""
        row, column = place
        mask[row.keep : row.stop, column.keep : column.stop] = piece[
            row.keep - row.start : row.stop - row.start, column.keep - column.start : column.stop - column.start
        ]


class Scaled:
    """An image of `shape` scaled to fit into `size` with its aspect ratio, then padded.

    As mmseg's test pipeline resizes: bilinear, without antialiasing, up or down. The classes come back by nearest
    neighbour.
    """

    count = 1

    def __init__(self, shape: Size, size: Size, colour: Sequence[int] = MEAN_COLOUR) -> None:
        self.size, self.colour = size, colour
        scale = min(size[0] / shape[0], size[1] / shape[1])
        self.inside = tuple(min(max(1, round(n * scale)), limit) for n, limit in zip(shape, size, strict=True))

    def cut(self, image: Array) -> Iterator[tuple[None, Array]]:
        """Yield the whole image."""
        h, w = self.inside
        scaled = cv2.resize(image, (w, h), interpolation=cv2.INTER_LINEAR)  # drops the axis of a single channel
        yield None, pad(scaled.reshape(h, w, -1), self.size, self.colour)

    def paste(self, mask: Mask, place: None, piece: Mask) -> None:
        """Scale the class map back."""
        h, w = self.inside
        mask[:] = cv2.resize(piece[:h, :w], mask.shape[::-1], interpolation=cv2.INTER_NEAREST_EXACT)
