"""The class of each pixel of enlarged logits, without enlarging them: only where classes meet, something is computed.

Bilinear resizing splits a map into cells, each between four neighbouring values, its corners. What it computes in a
cell is a convex combination of the corners: weights that are not negative and add up to one. If class k wins at all
four corners, v_k >= v_j there for every other class j, so the same holds for every combination of them: k wins in the
whole cell. Ties change nothing, if the lowest index wins them: a lower j was below k at each corner, and so it is in
between.

    class of a cell's pixels = the class of its corners                 where the corners agree
                               argmax over classes, weights @ corners   where they differ

Nothing is approximated, for all sizes, ratios and `align_corners`; docs/class_map.md says what is gained.

Source: ours.
"""

from __future__ import annotations

import functools
import itertools
import math
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor

from .folding import _constant, _numbers, map_size, resize

PIXELS = 9  # in a cell; with fewer, gathering the cells costs more than computing all pixels
ELEMENTS = 2**24  # of enlarged logits at a time, if no cell's corners agree: 64 MiB in float32


@dataclass(frozen=True)
class Axis:
    """How the outputs of a resizing along one axis lie in cells, each between two neighbouring inputs."""

    low: tuple[int, ...]  # (cells,) the input at the beginning of each cell
    high: tuple[int, ...]  # (cells,) and at its end
    weights: tuple[tuple[float, ...], ...]  # (cells, pixels) how much of a pixel is of `high`; the rest is of `low`
    pixels: int  # in the largest cell: a place for each, some of which are idle in smaller cells
    places: tuple[int, ...]  # (length,) where each output is, among cells * pixels places


@functools.lru_cache(maxsize=64)
def cells_along(n: int, length: int, align_corners: bool) -> Axis:
    """Return the cells of a bilinear resizing of `n` values to `length`; the outer values go on beyond the border."""
    # Coordinates are fractions of whole numbers, so that each output lies in one cell for certain.
    if align_corners:
        coordinates, unit = [y * (n - 1) for y in range(length)], max(length - 1, 1)
    else:
        coordinates, unit = [(2 * y + 1) * n - length for y in range(length)], 2 * length
    begins = [coordinate // unit for coordinate in coordinates]
    sizes = Counter(begins)  # in the order of the cells
    pixels, cells = max(sizes.values()), list(sizes)
    places, rests, last = [], {}, (begins[0], pixels - sizes[begins[0]] - 1)  # the first cell is idle at its beginning
    for begin, coordinate in zip(begins, coordinates, strict=True):
        last = (begin, last[1] + 1 if begin == last[0] else 0)
        place = cells.index(begin), last[1]
        places.append(place[0] * pixels + place[1])
        rests[place] = coordinate % unit
    # An idle place gets the weights of another cell, so that as many cells as possible are alike.
    usual = {place: rest for (_, place), rest in rests.items()}
    return Axis(
        low=tuple(min(max(begin, 0), n - 1) for begin in cells),
        high=tuple(min(max(begin + 1, 0), n - 1) for begin in cells),
        weights=tuple(
            tuple(rests.get((i, place), usual[place]) / unit for place in range(pixels)) for i in range(len(cells))
        ),
        pixels=pixels,
        places=tuple(places),
    )


def class_map(
    logits: Tensor,  # (N, C, h, w)
    size: tuple[int, int],
    align_corners: bool = False,
) -> Tensor:  # (N, *size)
    """Return `interpolate(logits, size, mode='bilinear').argmax(1)`, as uint8 or above 256 classes int32."""
    (h, w), (classes,) = map_size(logits), _numbers(logits.shape[1:2])
    rows, columns = cells_along(h, size[0], align_corners), cells_along(w, size[1], align_corners)
    if rows.pixels * columns.pixels < PIXELS:
        return winner(logits if (h, w) == size else resize(logits, size, align_corners), 1)
    best = winner(logits, 1)
    values = logits.transpose(0, 1).reshape(classes, -1)  # (C, N * h * w): the values of a class are in one piece
    number = math.ceil(classes * size[0] * size[1] / ELEMENTS)
    cuts = sorted({len(rows.low) * i // number for i in range(number + 1)})
    bands = [_band(best, values, rows, columns, band) for band in itertools.pairwise(cuts)]
    return _placed(_placed(torch.cat(bands, 1), rows.places, 1), columns.places, 2)


def winner(values: Tensor, axis: int) -> Tensor:
    """Return the index of the largest value, the lowest one of several, as uint8 or above 256 classes int32."""
    # Along axes other than the last, torch's argmax takes 2.6 times as long as its max.
    return values.max(axis).indices.to(torch.uint8 if values.shape[axis] <= 256 else torch.int32)


def _band(
    best: Tensor,  # (N, h, w)
    values: Tensor,  # (C, N * h * w)
    rows: Axis,
    columns: Axis,
    band: tuple[int, int],
) -> Tensor:  # (N, R * a, Q * b)
    """Return the places of a range of R rows of Q cells of a x b places each."""
    (h, w), (classes,) = _numbers(best.shape[1:]), _numbers(values.shape[:1])
    cells, a, b = len(columns.low), rows.pixels, columns.pixels
    corners = _constant(_corners, torch.int64, best.device, rows, columns, w, band)  # (4, R * Q)
    first, *others = (best.reshape(-1, h * w).index_select(1, corner) for corner in corners)  # (N, R * Q)
    differ = functools.reduce(torch.logical_or, [first != other for other in others])
    # Both kinds of cells are rows of one table, from which each cell takes its own: that of its class, or its pixels.
    image, cell = differ.nonzero().unbind(1)  # (n,)
    nodes = corners.index_select(1, cell) + image * (h * w)
    nodes = values.index_select(1, nodes.reshape(-1)).reshape(classes, 4, -1)
    computed = winner(_enlarged(nodes, cell, rows, columns, band), 0).T  # (n, a * b)
    copied = _constant(_uniform, computed.dtype, best.device, classes, a * b)
    differ = differ.reshape(-1).to(torch.int64)  # OpenVINO would count truth values in 8 bits
    row = torch.where(differ > 0, differ.cumsum(0) + (classes - 1), first.reshape(-1).to(torch.int64))
    places = torch.cat([copied, computed]).index_select(0, row)  # (N * R * Q, a * b)
    places = places.reshape(-1, band[1] - band[0], cells, a, b).transpose(2, 3)
    return places.reshape(-1, (band[1] - band[0]) * a, cells * b)


def _enlarged(nodes: Tensor, cell: Tensor, rows: Axis, columns: Axis, band: tuple[int, int]) -> Tensor:
    """Return what is between the corners (C, 4, n) of each cell: (C, a * b, n)."""
    if len({*rows.weights}) == len({*columns.weights}) == 1:
        # With the constant on the left, as OpenVINO multiplies in float32 whatever it is asked for.
        return _constant(_weights, nodes.dtype, nodes.device, rows.weights[0], columns.weights[0]) @ nodes
    classes = nodes.shape[0]
    high = _constant(_of_cells, nodes.dtype, nodes.device, rows.weights[band[0] : band[1]], len(columns.low), 1)
    right = _constant(_of_cells, nodes.dtype, nodes.device, columns.weights, band[1] - band[0], 0)
    y, x = high.index_select(1, cell), right.index_select(1, cell)  # (a, n), (b, n)
    top, bottom = (nodes[:, i, None] * (1 - x) + nodes[:, i + 1, None] * x for i in (0, 2))  # (C, b, n)
    out = top[:, None] * (1 - y)[:, None] + bottom[:, None] * y[:, None]
    return out.reshape(classes, rows.pixels * columns.pixels, -1)


def _corners(rows: Axis, columns: Axis, w: int, band: tuple[int, int]) -> Tensor:  # (4, R * Q)
    """Return where the corners of each cell are in a map of width `w`: upper left and right, lower left and right."""
    pairs = [(y[band[0] : band[1]], x) for y in (rows.low, rows.high) for x in (columns.low, columns.high)]
    return torch.stack([(torch.tensor(y)[:, None] * w + torch.tensor(x)).flatten() for y, x in pairs])


def _weights(high: tuple[float, ...], right: tuple[float, ...]) -> Tensor:  # (a * b, 4)
    """Return the weights of the four corners in each of the places of a cell."""
    y, x = torch.tensor(high, dtype=torch.float64), torch.tensor(right, dtype=torch.float64)
    return torch.einsum('ay,bx->abyx', torch.stack([1 - y, y], 1), torch.stack([1 - x, x], 1)).reshape(-1, 4)


def _of_cells(weights: tuple[tuple[float, ...], ...], others: int, axis: int) -> Tensor:  # (pixels, R * Q)
    """Return the weights along one axis for each cell: `others` cells along the other one, which is axis 0 or 1."""
    table = torch.tensor(weights, dtype=torch.float64).T
    return table.repeat_interleave(others, 1) if axis else table.repeat(1, others)


def _uniform(classes: int, places: int) -> Tensor:  # (classes, places)
    return torch.arange(classes)[:, None].repeat(1, places)


def _placed(x: Tensor, places: tuple[int, ...], axis: int) -> Tensor:
    """Return the elements at `places` along an axis: a slice, if they are in a row."""
    if places[-1] - places[0] == len(places) - 1:
        return x.narrow(axis, places[0], len(places))
    return x.index_select(axis, _constant(torch.tensor, torch.int64, x.device, places))
