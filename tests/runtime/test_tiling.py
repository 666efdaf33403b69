"""Geometry of tiles: every pixel is decided once, and by a tile that sees enough around it."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from repvgg_seg.runtime.metadata import MEAN_COLOUR
from repvgg_seg.runtime.tiling import Route, decide, fitted, pad, spans

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
    overlap = data.draw(st.tuples(*(st.integers(0, n - 1) for n in size)))
    tiles = Route(shape, size, overlap=overlap)
    mask = np.zeros(shape, np.uint8)
    pieces = list(tiles.cut(image))
    assert len(pieces) == tiles.count
    for place, piece in pieces:
        assert piece.shape == (*size, 3)
        tiles.paste(place, piece[..., 0], mask)
    assert np.array_equal(mask, image[..., 0])


def test_what_is_beyond_the_image_is_the_mean_colour() -> None:
    image = np.arange(12, dtype=np.uint8).reshape(2, 2, 3)
    padded = pad(image, (4, 3), MEAN_COLOUR)
    assert np.array_equal(padded[:2, :2], image)
    assert (padded[2:] == [124, 116, 104]).all() and (padded[:, 2:] == [124, 116, 104]).all()
    assert pad(image, (2, 2), MEAN_COLOUR) is image


@given(shape=st.tuples(sizes, sizes), size=st.tuples(sizes, sizes))
def test_scaling_fits_and_covers_the_mask(shape, size) -> None:
    h, w = inside = fitted(shape, size)
    route = Route(shape, size, inside)
    [(place, piece)] = route.cut(np.full((*shape, 3), 7, np.uint8))
    assert piece.shape == (*size, 3) and (piece[:h, :w] == 7).all() and (h == size[0] or w == size[1])
    mask = np.zeros(shape, np.uint16)
    route.paste(place, np.full(size, 300, np.uint16), mask)
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
def test_fitting_keeps_the_aspect_ratio(shape, size, inside) -> None:
    assert fitted(shape, size) == inside


@settings(deadline=None)
@given(shape=st.tuples(sizes, sizes), inside=st.tuples(sizes, sizes), size=st.tuples(sizes, sizes), data=st.data())
def test_classes_come_back_by_nearest_neighbour_from_one_tile_or_many(shape, inside, size, data) -> None:
    overlap = data.draw(st.tuples(*(st.integers(0, n - 1) for n in size)))
    classes = np.arange(np.prod(inside), dtype=np.uint16).reshape(inside)
    route = Route(shape, size, inside, overlap)
    mask = np.full(shape, 9999, np.uint16)
    for place, _ in route.cut(np.zeros((*shape, 3), np.uint8)):
        piece = np.full(size, 8888, np.uint16)
        part = classes[place[0].start : place[0].start + size[0], place[1].start : place[1].start + size[1]]
        piece[: part.shape[0], : part.shape[1]] = part
        route.paste(place, piece, mask)
    rows, columns = (((2 * np.arange(n) + 1) * i) // (2 * n) for n, i in zip(shape, inside, strict=True))
    assert np.array_equal(mask, classes[rows][:, columns])


def test_logits_are_resized_before_they_are_decided_as_in_torch() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 6, 8, generator=generator) * 3
    expected = F.interpolate(logits[None], (13, 21), mode='bilinear')[0]
    route = Route((13, 21), (7, 8), (6, 8))
    mask, confidence = np.empty((13, 21), np.uint8), np.empty((13, 21), np.float32)
    padded = np.concatenate([logits.numpy(), np.full((5, 1, 8), 1e9, np.float32)], axis=1)  # what is beyond the image
    [(place, _)] = route.cut(np.zeros((13, 21, 3), np.uint8))
    route.paste(place, padded, mask, confidence)
    assert np.array_equal(mask, expected.argmax(0).numpy())
    assert np.allclose(confidence, expected.softmax(0).amax(0).numpy(), atol=1e-5)


def test_logits_of_tiles_are_decided_at_the_scale_of_the_graph() -> None:
    logits = np.random.default_rng(0).normal(size=(3, 8, 10)).astype(np.float32)
    route = Route((8, 10), (5, 6), overlap=(2, 2))
    mask, confidence = np.empty((8, 10), np.uint8), np.empty((8, 10), np.float32)
    for place, _ in route.cut(np.zeros((8, 10, 3), np.uint8)):
        row, column = place
        route.paste(place, logits[:, row.start : row.start + 5, column.start : column.start + 6], mask, confidence)
    assert np.array_equal(mask, logits.argmax(0))
    assert np.allclose(confidence, torch.from_numpy(logits).softmax(0).amax(0).numpy())


def test_a_sigmoid_says_class_1_above_its_threshold() -> None:
    logits = np.array([[[-2, 0, 2]]], np.float32)
    mask, confidence = decide(logits, (1, 3), 0.4, True)
    assert mask.tolist() == [[0, 1, 1]]
    with pytest.raises(ValueError, match='does not hold the threshold of its sigmoid: export the model again'):
        decide(logits, (1, 3), None, False)
    assert np.allclose(confidence, [[1 / (1 + np.exp(-2)), 0.5, 1 / (1 + np.exp(-2))]])


def test_of_equal_logits_the_first_wins_and_many_classes_need_sixteen_bits() -> None:
    logits = np.zeros((300, 1, 2), np.float32)
    logits[[7, 299], 0, 1] = 1
    mask, confidence = decide(logits, (1, 2), None, False)
    assert mask.dtype == np.uint16 and mask.tolist() == [[0, 7]] and confidence is None


def test_scaled_halves_come_back_as_halves() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 40:] = 255
    route = Route((40, 80), (20, 20), (10, 20))
    [(place, piece)] = route.cut(image)
    mask = np.empty((40, 80), np.uint8)
    route.paste(place, (piece[..., 0] > 127).astype(np.uint8), mask)
    assert np.array_equal(mask, image[..., 0] // 255)
