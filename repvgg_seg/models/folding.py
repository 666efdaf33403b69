"""The algebra of convolving enlarged maps: a head's 3x3 convolution moves to where the maps are small, exactly.

Pyramid heads enlarge small maps bilinearly, concatenate them with a large one and convolve the result. Both steps are
linear, so they may change places. For one map p (C, h, w), its slice W of the kernel (O, C, k, k) and the matrices of
the one-dimensional resizing Ry (H, h) and Rx (W, w):

    out[o, y, x] = sum over taps (dy, dx) and cells (i, j) of
                   Ry[y + dy, i] * Rx[x + dx, j] * (sum over c of W[o, c, dy, dx] * p[c, i, j])

The sums over c, k * k products a cell, run on h * w cells in place of H * W pixels. The rest are two multiplications by
constant matrices, `tap_matrix`: the rows of Ry (Rx) shifted by each tap, and zero beyond the border, as the padding is.
Nothing is approximated, not even at the borders, for all sizes, ratios and `align_corners`; docs/folding.md has the
derivation and the gain.

Source: ours.
"""

from __future__ import annotations

import functools
import math
import operator
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

# The cost model's constants, in units of one operation of a large convolution in bfloat16 on AMX (0.7 ps): memory is
# slowest beside arithmetic there, so what pays there pays elsewhere.
ELEMENT = 200  # moving one element to or from memory
CONTRACTION = 4  # one operation in a product with a constant matrix, which is flat
STEP = 20_000_000  # calling one more operator
INT8 = 2  # operations of a convolution in int8 in the time of one in bfloat16
TILE = 32  # cells of a small map whose share of the output is computed at a time: tap matrices are banded


@dataclass(frozen=True)
class Cost:
    """What a way of computing takes: arithmetic, elements read from and written to memory, and calls."""

    operations: int  # in convolutions and products over channels
    contractions: int  # operations in products with constant matrices
    elements: int
    steps: int  # operators called

    def __lt__(self, other: Cost) -> bool:
        return self.total() < other.total()

    def total(self, int8: bool = False) -> float:
        """Return it as one number; in int8 convolutions and products over channels are faster, and the rest is not."""
        operations = self.operations / (INT8 if int8 else 1)
        return operations + CONTRACTION * self.contractions + ELEMENT * self.elements + STEP * self.steps


def plain_cost(weight: tuple[int, ...], small: tuple[int, int], large: tuple[int, int]) -> Cost:
    """Return the cost of enlarging a map of `small` (h, w) to `large` (H, W), concatenating and convolving it.

    `weight` is the shape of the map's slice of the kernel, (O, C, kh, kw); costs are those of one image.
    """
    out_channels, channels, kh, kw = weight
    pixels = large[0] * large[1]
    # Written by the resizing, read and written by the concatenation, read by the convolution.
    return Cost(2 * out_channels * channels * kh * kw * pixels, 0, channels * (small[0] * small[1] + 4 * pixels), 2)


def folded_cost(weight: tuple[int, ...], small: tuple[int, int], large: tuple[int, int]) -> Cost:
    """Return the cost of the same by products on the small map and two banded matrices; see `plain_cost`."""
    out_channels, channels, kh, kw = weight
    (h, w), (height, width) = small, large
    products, rows, out = kh * h * kw * w * out_channels, height * kw * w * out_channels, height * width * out_channels
    contractions = 2 * rows * kh * min(h, TILE + kh) + 2 * out * kw * min(w, TILE + kw)
    # The kernel is reordered; products and rows are written and read, products also reordered; the output is written,
    # then read and added.
    kernel = out_channels * channels * kh * kw
    elements = 2 * kernel + channels * h * w + 4 * products + 2 * rows + 3 * out
    return Cost(2 * products * channels, contractions, elements, 8)


def folding_pays(weight: tuple[int, ...], small: tuple[int, int], large: tuple[int, int], int8: bool = False) -> bool:
    """Return whether the map is better folded than enlarged, by the cost model."""
    return folded_cost(weight, small, large).total(int8) < plain_cost(weight, small, large).total(int8)


def _as_it_is(x: Tensor) -> Tensor:
    return x


@dataclass(frozen=True)
class Rounding:
    """How int8 rounds what a convolution multiplies."""

    input: Callable[[Tensor], Tensor] = _as_it_is
    # Of a kernel (n * O, ...): a part of it, or n of them behind one another.
    kernel: Callable[[Tensor], Tensor] = _as_it_is


def convolve_enlarged(
    maps: Sequence[Tensor],  # (N, C_i, h_i, w_i)
    weight: Tensor,  # (O, sum of C_i, kh, kw)
    bias: Tensor | None = None,  # (O,)
    *,
    size: tuple[int, int],
    align_corners: bool = False,
    int8: bool = False,
    rounding: Rounding = Rounding(),
) -> Tensor:  # (N, O, *size)
    """Return `conv2d(cat([interpolate(m, size) for m in maps], 1), weight, bias, padding='same')` with less work.

    Bilinear interpolation, zero padding, any odd kernel. Each map is folded or enlarged, whichever the cost model finds
    cheaper, for `int8` or for floating point; one that has the output's size already is convolved as it is. `rounding`
    is applied to what is multiplied, enlarged or not, so that a runtime multiplies in int8.

    Raises:
        ValueError: a side of the kernel is even.
    """
    out_channels, _, kh, kw = _numbers(weight.shape)
    if kh % 2 == 0 or kw % 2 == 0:
        raise ValueError(f'only a kernel of odd sides keeps the size of a map; this one has {kh}x{kw}')
    channels = [_numbers(m.shape[1:2])[0] for m in maps]
    small = {
        i
        for i, m in enumerate(maps)
        if map_size(m) != size and folding_pays((out_channels, channels[i], kh, kw), map_size(m), size, int8)
    }
    kernels = weight.split(channels, 1) if small else ()
    large = [i for i in range(len(maps)) if i not in small]
    out = None
    if large:
        x = [maps[i] if map_size(maps[i]) == size else enlarge(maps[i], size, align_corners) for i in large]
        kernel = _cat([kernels[i] for i in large], 1) if small else weight
        out = F.conv2d(rounding.input(_cat(x, 1)), rounding.kernel(kernel), bias, padding=(kh // 2, kw // 2))
    if small:
        few, parts = [maps[i] for i in sorted(small)], [kernels[i] for i in sorted(small)]
        folded = fold_maps(few, parts, size, align_corners, rounding)
        if out is not None:
            return out + folded
        out = folded if bias is None else folded + bias.to(folded.dtype)[:, None, None]
    assert out is not None  # every map is either
    return out


def fold_maps(
    maps: Sequence[Tensor],  # (N, C_i, h_i, w_i)
    kernels: Sequence[Tensor],  # (O, C_i, kh, kw)
    size: tuple[int, int],
    align_corners: bool = False,
    rounding: Rounding = Rounding(),
) -> Tensor:  # (N, O, *size), stored channels_last
    """Return the sum over `maps` of `conv2d(interpolate(m, size), kernel, padding='same')`, never enlarging a map."""
    height, width = size
    out_channels, _, kh, kw = _numbers(kernels[0].shape)
    rows, widths = [], []
    for m, kernel in zip(maps, kernels, strict=True):
        h, w = map_size(m)
        taps = kernel.permute(2, 3, 0, 1).reshape(kh * kw * out_channels, -1)
        products = F.linear(rounding.input(m.permute(0, 2, 3, 1)), rounding.kernel(taps)).reshape(
            -1, h, w, kh, kw * out_channels
        )
        products = products.transpose(2, 3).reshape(-1, h * kh, w * kw * out_channels)
        # Rows first: of images, mostly wider than high, this leaves less for the second product.
        row = _contract([products], [h], height, kh, align_corners)  # (N, H, w * kw * O)
        rows.append(row.reshape(-1, height, w * kw, out_channels))
        widths.append(w)
    return _contract(rows, widths, width, kw, align_corners).permute(0, 3, 1, 2)


def _contract(
    maps: Sequence[Tensor],  # (..., n_i * kernel, M)
    lengths: Sequence[int],  # n_i
    length: int,
    kernel: int,
    align_corners: bool,
) -> Tensor:  # (..., length, M)
    """Return the sum over `maps` of `tap_matrix(n_i, length, kernel) @ m`, tile by tile of the banded matrices."""
    tiles = min(math.ceil(max(lengths) / TILE), length)
    out = []
    for t in range(tiles):
        rows = (length * t // tiles, length * (t + 1) // tiles)
        spans = tuple(_span(n, length, rows, kernel, align_corners) for n in lengths)
        parts = [m[..., a * kernel : b * kernel, :] for m, (a, b) in zip(maps, spans, strict=True)]
        tile = (tuple(lengths), length, kernel, align_corners, rows, spans)
        matrix = _constant(_tap_tile, maps[0].dtype, maps[0].device, *tile)
        out.append(_multiply(matrix, _cat(parts, -2)))
    return _cat(out, -2)


def _multiply(matrix: Tensor, x: Tensor) -> Tensor:  # (L, K), (..., K, M) -> (..., L, M)
    """Return `matrix @ x`, in an exported graph with a zero added to the matrix that only the running graph knows.

    OpenVINO 2026.4 multiplies by a constant on the left in float32, even if another precision is asked for, and does
    not compile the quantized form. The transposed product, a linear layer, has neither fault, but reorders large maps
    twice.
    """
    if _exporting():
        matrix = matrix + x[(0,) * x.ndim].abs().clamp(max=0)
    return matrix @ x


def _exporting() -> bool:
    """Whether a graph is being recorded for other runtimes."""
    exporting = torch.compiler.is_compiling() and not torch.compiler.is_dynamo_compiling()
    return exporting or torch.jit.is_tracing()


def _span(n: int, length: int, rows: tuple[int, int], kernel: int, align_corners: bool) -> tuple[int, int]:
    """Return the range of the cells that `rows` of a `tap_matrix` read."""
    first, last = max(rows[0] - kernel // 2, 0), min(rows[1] - 1 + kernel // 2, length - 1)
    if align_corners:
        step = (n - 1) / (length - 1) if length > 1 else 0
        low, high = first * step, last * step
    else:
        low, high = (first + 0.5) * n / length - 0.5, (last + 0.5) * n / length - 0.5
    return max(math.floor(low), 0), min(math.floor(high) + 2, n)


@torch.compiler.assume_constant_result
def _constant(make: Callable[..., Tensor], dtype: torch.dtype, device: torch.device, *args: Any) -> Tensor:
    """Return `make(*args)` in `dtype` on `device`, from a cache: a constant for whatever compiles or exports."""
    return _cached_constant(make, dtype, device, *args)


@functools.lru_cache(maxsize=256)
def _cached_constant(make: Callable[..., Tensor], dtype: torch.dtype, device: torch.device, *args: Any) -> Tensor:
    # In a thread of its own, what the caller runs under (export's fake tensors, inference mode, tracing, a default
    # device) does not reach into the cache, whose tensors others will use.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: make(*args).to(dtype=dtype, device=device)).result()


def _tap_tile(
    lengths: tuple[int, ...],
    length: int,
    kernel: int,
    align_corners: bool,
    rows: tuple[int, int],
    spans: tuple[tuple[int, int], ...],
) -> Tensor:
    """Return `rows` of the tap matrices of `lengths`, each matrix's columns for the cells of its span, side by side."""
    matrices = [
        tap_matrix(n, length, kernel, align_corners)[rows[0] : rows[1], a * kernel : b * kernel]
        for n, (a, b) in zip(lengths, spans, strict=True)
    ]
    return torch.cat(matrices, 1)


def tap_matrix(n: int, length: int, kernel: int, align_corners: bool = False) -> Tensor:  # (length, n * kernel)
    """Return how each of `length` outputs of a convolution reads `n` cells through each tap, in float64.

    Column `i * kernel + d` belongs to cell i and tap d: the one-dimensional bilinear matrix, shifted by the tap, and
    zero beyond the border.
    """
    cells = torch.eye(n, dtype=torch.float64)[None]
    resize = F.interpolate(cells, length, mode='linear', align_corners=align_corners)[0]  # (n, length)
    padded = F.pad(resize, (kernel // 2, kernel // 2))
    return padded.unfold(1, length, 1).reshape(n * kernel, length).T.contiguous()


def pooling_pays(channels: int, size: tuple[int, int], sizes: Sequence[tuple[int, int]]) -> bool:
    """Return whether a map of `size` is better pooled to all `sizes` by products than one by one, by the cost model."""
    (h, w), bins = size, sum(width for _, width in sizes)
    pixels = channels * h * w
    one_by_one = Cost(0, 0, len(sizes) * pixels, len(sizes))
    # A product of an exported graph calls five operators: see _multiply.
    products = Cost(0, 2 * pixels * bins, pixels + 2 * channels * h * bins, 2 + 5 * len(sizes))
    return products < one_by_one


def pool_pyramid(x: Tensor, sizes: Sequence[tuple[int, int]]) -> list[Tensor]:  # (N, C, H, W) -> (N, C, *size)
    """Return `[adaptive_avg_pool2d(x, size) for size in sizes]`, reading a large `x` once.

    Adaptive pooling is linear and separable too. The first of two products with constant matrices serves all sizes.
    """
    c, h, w = _numbers(x.shape[1:])
    if not pooling_pays(c, (h, w), sizes):
        return [F.adaptive_avg_pool2d(x, size) for size in sizes]
    heights, widths = (tuple(size[axis] for size in sizes) for axis in (0, 1))
    constant = functools.partial(_constant, _pool_matrix, x.dtype, x.device)
    # Runtimes choose layouts themselves; of the form for channels_last, with what follows in a PSPNet on RepVGG-A0,
    # OpenVINO 2026.4 makes another function.
    if x.is_contiguous(memory_format=torch.channels_last) and not _exporting():
        rows = _multiply(constant(h, heights), x.permute(0, 2, 3, 1).reshape(-1, h, w * c))
        return [
            _multiply(constant(w, (b,)), r.reshape(-1, a, w, c)).permute(0, 3, 1, 2)
            for r, a, b in zip(rows.split(heights, 1), heights, widths, strict=True)
        ]
    columns = F.linear(x, constant(w, widths))
    return [_multiply(constant(h, (b,)), column) for column, b in zip(columns.split(widths, 3), heights, strict=True)]


def _pool_matrix(n: int, bins: tuple[int, ...]) -> Tensor:  # (sum of bins, n)
    """Return, one below the other, the matrices that average `n` values in each number of `bins` as torch does."""
    return torch.cat([F.adaptive_avg_pool1d(torch.eye(n, dtype=torch.float64)[None], b)[0].T for b in bins])


def map_size(x: Tensor) -> tuple[int, int]:
    """Return height and width of a map (N, C, H, W), as plain numbers."""
    height, width = _numbers(x.shape[2:])
    return height, width


def _numbers(shape: Sequence[int]) -> tuple[int, ...]:
    """Return `shape` as the plain numbers that the constants depend on, under whatever traces or compiles."""
    if not torch.jit.is_tracing():
        return tuple(operator.index(n) for n in shape)
    with warnings.catch_warnings():  # they are meant to become constants of the trace
        warnings.simplefilter('ignore', torch.jit.TracerWarning)
        return tuple(operator.index(n) for n in shape)


def enlarge(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:
    """Return a map bilinearly resized to `size` (H, W)."""
    return F.interpolate(x, size, mode='bilinear', align_corners=align_corners)


def resize(x: Tensor, size: tuple[int, int], align_corners: bool) -> Tensor:  # (N, C, h, w) -> (N, C, H, W)
    """Return a map bilinearly resized to `size` by products with two constant matrices, along the width first."""
    h, w = map_size(x)
    constant = functools.partial(_constant, tap_matrix, x.dtype, x.device)
    return constant(h, size[0], 1, align_corners) @ F.linear(x, constant(w, size[1], 1, align_corners))


def _cat(tensors: Sequence[Tensor], dim: int) -> Tensor:
    return torch.cat(list(tensors), dim) if len(tensors) > 1 else tensors[0]
