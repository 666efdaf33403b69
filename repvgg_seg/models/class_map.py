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
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .folding import _constant, _numbers, map_size, resize

PIXELS = 9  # in a cell; with fewer, gathering the cells costs more than computing all pixels
ELEMENTS = 2**24  # of enlarged logits at a time, if no cell's corners agree: 64 MiB in float32


@dataclass(frozen=True)
class Axis:
    """How the outputs of a resizing along one axis lie in cells, each between neighbouring inputs, its nodes.

    In one step there are two nodes, in two steps up to three.
    """

    nodes: tuple[tuple[int, ...], ...]  # (nodes, cells) inputs, from the beginning of each cell to its end
    weights: tuple[tuple[tuple[float, ...], ...], ...]  # (cells, pixels, nodes) how much of a pixel is of each
    pixels: int  # in the largest cell: a place for each, some of which are idle in smaller cells
    places: tuple[int, ...]  # (length,) where each output is, among cells * pixels places


@functools.lru_cache(maxsize=64)
def cells_along(lengths: tuple[int, ...], align_corners: bool) -> Axis:
    """Return the cells of bilinear resizings from each of `lengths` to the next; outer values go on beyond the border.

    Only the last length may be smaller than the one before it.
    """
    spread = [dict(_between(y, lengths[-2], lengths[-1], align_corners)) for y in range(lengths[-1])]
    for n, length in reversed([*itertools.pairwise(lengths[:-1])]):
        spread = [_through(weights, n, length, align_corners) for weights in spread]
    begins = [min(weights) for weights in spread]
    nodes = max(max(weights) - begin + 1 for weights, begin in zip(spread, begins, strict=True))
    sizes = Counter(begins)  # in the order of the cells
    pixels, cells = max(sizes.values()), {begin: i for i, begin in enumerate(sizes)}
    places, parts, last = [], {}, (begins[0], pixels - sizes[begins[0]] - 1)  # the first cell is idle at its beginning
    for begin, weights in zip(begins, spread, strict=True):
        last = (begin, last[1] + 1 if begin == last[0] else 0)
        place = cells[begin], last[1]
        places.append(place[0] * pixels + place[1])
        parts[place] = tuple(weights.get(begin + i, 0.0) for i in range(nodes))
    # An idle place is as another cell's, so that cells are alike where they can be.
    usual = {place: part for (_, place), part in parts.items()}
    return Axis(
        nodes=tuple(tuple(min(max(begin + i, 0), lengths[0] - 1) for begin in cells) for i in range(nodes)),
        weights=tuple(tuple(parts.get((i, place), usual[place]) for place in range(pixels)) for i in range(len(cells))),
        pixels=pixels,
        places=tuple(places),
    )


def _between(y: int, n: int, length: int, align_corners: bool) -> list[tuple[int, float]]:
    """Return the two of `n` inputs that output `y` of `length` lies between, and how much of it is of each."""
    # Coordinates are fractions of whole numbers, so that each output lies in one cell for certain.
    if align_corners:
        coordinate, unit = y * (n - 1), max(length - 1, 1)
    else:
        coordinate, unit = (2 * y + 1) * n - length, 2 * length
    begin, rest = divmod(coordinate, unit)
    return [(begin, 1 - rest / unit), (begin + 1, rest / unit)]


def _through(weights: dict[int, float], n: int, length: int, align_corners: bool) -> dict[int, float]:
    """Return the weights of `n` inputs in an output that has `weights` of the `length` values they are resized to."""
    spread: dict[int, float] = {}
    for y, weight in weights.items():
        if align_corners:  # where nothing is beyond the border, but for values of weight 0
            y = min(max(y, 0), length - 1)
        for node, part in _between(y, n, length, align_corners):
            spread[node] = spread.get(node, 0.0) + weight * part
    return spread


@torch.compiler.disable  # it would compile one graph a band, for a size that each image changes
def class_map(
    logits: Tensor,  # (N, C, h, w)
    size: tuple[int, int],
    align_corners: bool = False,
    through: tuple[int, int] | None = None,
) -> Tensor:  # (N, *size)
    """Return `interpolate(logits, size, mode='bilinear').argmax(1)`, as uint8 or above 256 classes int32.

    With `through` logits are resized to that (H, W) before they are resized to `size`.
    """
    (h, w), (classes,) = map_size(logits), _numbers(logits.shape[1:2])
    if through and (through[0] < h or through[1] < w):
        return class_map(resize(logits, through, align_corners), size, align_corners)
    steps = [(h, w), *([through] if through not in (None, (h, w), size) else []), size]
    rows, columns = (cells_along(lengths, align_corners) for lengths in zip(*steps, strict=True))
    if rows.pixels * columns.pixels < PIXELS:
        for step in steps[1:]:
            logits = logits if map_size(logits) == step else resize(logits, step, align_corners)
        return winner(logits, 1)
    best = winner(logits, 1)
    values = logits.transpose(0, 1).reshape(classes, -1)  # (C, N * h * w): the values of a class are in one piece
    number = math.ceil(classes * size[0] * size[1] / ELEMENTS)
    cells = len(rows.weights)
    cuts = sorted({cells * i // number for i in range(number + 1)})
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
    cells, a, b = len(columns.weights), rows.pixels, columns.pixels
    corners = _constant(_corners, torch.int64, best.device, rows, columns, w, band)  # (K, R * Q)
    first, *others = (best.reshape(-1, h * w).index_select(1, corner) for corner in corners)  # (N, R * Q)
    differ = functools.reduce(torch.logical_or, [first != other for other in others])
    # Both kinds of cells are rows of one table, from which each cell takes its own: that of its class, or its pixels.
    image, cell = differ.nonzero().unbind(1)  # (n,)
    nodes = corners.index_select(1, cell) + image * (h * w)
    nodes = values.index_select(1, nodes.reshape(-1)).reshape(classes, corners.shape[0], -1)
    computed = winner(_enlarged(nodes, cell, rows, columns, band), 0).T  # (n, a * b)
    copied = _constant(_uniform, computed.dtype, best.device, classes, a * b)
    differ = differ.reshape(-1).to(torch.int64)  # OpenVINO would count truth values in 8 bits
    row = torch.where(differ > 0, differ.cumsum(0) + (classes - 1), first.reshape(-1).to(torch.int64))
    places = torch.cat([copied, computed]).index_select(0, row)  # (N * R * Q, a * b)
    places = places.reshape(-1, band[1] - band[0], cells, a, b).transpose(2, 3)
    return places.reshape(-1, (band[1] - band[0]) * a, cells * b)


def _enlarged(nodes: Tensor, cell: Tensor, rows: Axis, columns: Axis, band: tuple[int, int]) -> Tensor:
    """Return what is between the corners (C, K, n) of each cell: (C, a * b, n)."""
    if len({*rows.weights}) == len({*columns.weights}) == 1:
        # With the constant on the left, as OpenVINO multiplies in float32 whatever it is asked for.
        return _constant(_weights, nodes.dtype, nodes.device, rows.weights[0], columns.weights[0]) @ nodes
    classes, others = nodes.shape[0], len(columns.weights)
    below = _constant(_of_cells, nodes.dtype, nodes.device, rows.weights[band[0] : band[1]], others, 1)
    right = _constant(_of_cells, nodes.dtype, nodes.device, columns.weights, band[1] - band[0], 0)
    y, x = below.index_select(2, cell), right.index_select(2, cell)  # (a, nodes, n), (b, nodes, n)
    nodes = nodes.reshape(classes, len(rows.nodes), len(columns.nodes), -1)
    lines = _mixed(nodes[:, :, :, None].unbind(2), x.unbind(1))  # (C, nodes, b, n)
    out = _mixed(lines[:, None].unbind(2), y[:, :, None].unbind(1))  # (C, a, b, n)
    return out.reshape(classes, rows.pixels * columns.pixels, -1)


def _mixed(values: Sequence[Tensor], weights: Sequence[Tensor]) -> Tensor:
    """Return the sum of `values` times `weights`, which add up to one: fewer passes over memory than to add them up."""
    first = values[0]
    return functools.reduce(torch.add, [(v - first) * w for v, w in zip(values[1:], weights[1:], strict=True)], first)


def _corners(rows: Axis, columns: Axis, w: int, band: tuple[int, int]) -> Tensor:  # (K, R * Q)
    """Return where the corners of each cell are in a map of width `w`, from the upper left one on, line by line."""
    pairs = [(y[band[0] : band[1]], x) for y in rows.nodes for x in columns.nodes]
    return torch.stack([(torch.tensor(y)[:, None] * w + torch.tensor(x)).flatten() for y, x in pairs])


def _weights(below: tuple[tuple[float, ...], ...], right: tuple[tuple[float, ...], ...]) -> Tensor:  # (a * b, K)
    """Return the weights of the corners in each of the places of a cell."""
    return torch.kron(torch.tensor(below, dtype=torch.float64), torch.tensor(right, dtype=torch.float64))


def _of_cells(weights: tuple[tuple[tuple[float, ...], ...], ...], others: int, axis: int) -> Tensor:
    """Return the weights along one axis for each cell, (pixels, nodes, R * Q): of `others` cells along the other axis.

    `axis` is the one that these follow on, 0 or 1.
    """
    table = torch.tensor(weights, dtype=torch.float64).permute(1, 2, 0)
    return table.repeat_interleave(others, 2) if axis else table.repeat(1, 1, others)


def _uniform(classes: int, places: int) -> Tensor:  # (classes, places)
    return torch.arange(classes)[:, None].repeat(1, places)


def _placed(x: Tensor, places: tuple[int, ...], axis: int) -> Tensor:
    """Return the elements at `places` along an axis: a slice, if they are in a row."""
    if places[-1] - places[0] == len(places) - 1:
        return x.narrow(axis, places[0], len(places))
    return x.index_select(axis, _constant(torch.tensor, torch.int64, x.device, places))
