"""Geometry of tiles: every pixel is decided once, and by a tile that sees enough around it."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from repvgg_seg.runtime.metadata import MEAN_COLOUR
from repvgg_seg.runtime.tiling import Scaled, Tiles, pad, spans

sizes = st.integers(1, 40)


@given(length=st.integers(1, 400), tile=st.integers(1, 60), data=st.data())
def test_every_pixel_is_kept_once_and_far_from_inner_borders(length, tile, data) -> None:
    overlap = data.draw(st.integers(0, tile - 1))
    found = spans(length, tile, overlap)
    kept = [pixel for span in found for pixel in range(span.keep, span.stop)]
    assert kept == list(range(length))
    for span in found:
        assert 0 <= span.start <= span.keep < span.stop <= span.start + tile <= max(length, tile)
        assert span.keep in (0, length) or span.keep - span.start >= overlap // 2
        assert span.stop == length or span.start + tile - span.stop >= overlap // 2


@given(length=st.integers(1, 400), tile=st.integers(1, 60), data=st.data())
def test_no_more_tiles_than_are_needed(length, tile, data) -> None:
    overlap = data.draw(st.integers(0, tile - 1))
    count = len(spans(length, tile, overlap))
    assert count == 1 or (count - 1) * (tile - overlap) + overlap < length


@given(shape=st.tuples(sizes, sizes), size=st.tuples(sizes, sizes), data=st.data())
def test_cutting_and_pasting_gives_the_image_back(shape, size, data) -> None:
    image = np.arange(np.prod(shape) * 3, dtype=np.uint32).reshape(*shape, 3).astype(np.uint8)
    tiles = Tiles(shape, size, data.draw(st.integers(0, min(size) - 1)))
    mask = np.zeros(shape, np.uint8)
    pieces = list(tiles.cut(image))
    assert len(pieces) == tiles.count
    for place, piece in pieces:
        assert piece.shape == (*size, 3)
        tiles.paste(mask, place, piece[..., 0])
    assert np.array_equal(mask, image[..., 0])


def test_what_is_beyond_the_image_is_the_mean_colour() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    padded = pad(image, (4, 3), MEAN_COLOUR)
    assert np.array_equal(padded[:2, :2], image)
    assert (padded[2:] == [124, 116, 104]).all() and (padded[:, 2:] == [124, 116, 104]).all()
    assert pad(image, (2, 2), MEAN_COLOUR) is image


@given(shape=st.tuples(sizes, sizes), size=st.tuples(sizes, sizes))
def test_scaling_fits_and_covers_the_mask(shape, size) -> None:
    scaled = Scaled(shape, size)
    [(place, piece)] = scaled.cut(np.full((*shape, 3), 7, np.uint8))
    h, w = scaled.inside
    assert piece.shape == (*size, 3) and (piece[:h, :w] == 7).all() and (h == size[0] or w == size[1])
    mask = np.zeros(shape, np.uint16)
    scaled.paste(mask, place, np.full(size, 300, np.uint16))
    assert (mask == 300).all()


@pytest.mark.parametrize(
    ('shape', 'size', 'inside'),
    [
        ((40, 80), (20, 40), (20, 40)),
        ((40, 40), (20, 40), (20, 20)),
        ((5, 5), (20, 40), (20, 20)),  # upwards as well
        ((1, 999), (8, 8), (1, 8)),  # never to nothing
    ],
)
def test_scaling_keeps_the_aspect_ratio(shape, size, inside) -> None:
    assert Scaled(shape, size).inside == inside


def test_scaled_halves_come_back_as_halves() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 40:] = 255
    scaled = Scaled((40, 80), (20, 20))
    [(place, piece)] = scaled.cut(image)
    mask = np.empty((40, 80), np.uint8)
    scaled.paste(mask, place, (piece[..., 0] > 127).astype(np.uint8))
    assert np.array_equal(mask, image[..., 0] // 255)
