"""Geometry of tiles: every pixel is decided once, and by a tile that sees enough around it."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from mmseg.models import EncoderDecoder

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


@pytest.mark.parametrize('align_corners', [False, True])
def test_logits_are_resized_before_they_are_decided_as_in_torch(align_corners: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(5, 6, 8, generator=generator) * 3
    expected = F.interpolate(logits[None], (13, 21), mode='bilinear', align_corners=align_corners)[0]
    route = Route((13, 21), (7, 8), (6, 8), align_corners=align_corners)
    mask, confidence = np.empty((13, 21), np.uint8), np.empty((13, 21), np.float32)
    padded = np.concatenate([logits.numpy(), np.full((5, 1, 8), 1e9, np.float32)], axis=1)  # what is beyond the image
    [(place, _)] = route.cut(np.zeros((13, 21, 3), np.uint8))
    route.paste(place, padded, mask, confidence)
    assert np.array_equal(mask, expected.argmax(0).numpy())
    assert np.allclose(confidence, expected.softmax(0).amax(0).numpy(), atol=1e-5)


windows = st.fixed_dictionaries(
    {
        'classes': st.sampled_from([1, 2, 5]),
        'size': st.tuples(st.integers(2, 9), st.integers(2, 9)),
        'windows': st.tuples(st.integers(0, 20), st.integers(0, 20)),  # pixels more than one window
        'shape': st.one_of(st.none(), st.tuples(st.integers(1, 40), st.integers(1, 40))),
        'align_corners': st.booleans(),
        'seed': st.integers(0, 9),
    }
)


@settings(deadline=None, max_examples=60)
@given(case=windows, data=st.data())
def test_windows_are_averaged_and_resized_as_mmseg_does_it(case: dict, data) -> None:
    size, classes = case['size'], case['classes']
    inside = tuple(n + more for n, more in zip(size, case['windows'], strict=True))
    stride = data.draw(st.tuples(*(st.integers(1, n) for n in size)))
    shape = case['shape'] or inside
    generator = torch.Generator().manual_seed(case['seed'])
    image = torch.randn(1, classes, *inside, generator=generator)
    bias = torch.randn(classes, *size, generator=generator)  # windows that see a pixel do not agree
    network = SimpleNamespace(
        test_cfg=SimpleNamespace(stride=stride, crop_size=size),
        out_channels=classes,
        encode_decode=lambda window, _: window + bias,
    )
    logits = EncoderDecoder.slide_inference(network, image, [{}])
    logits = F.interpolate(logits, shape, mode='bilinear', align_corners=case['align_corners'])[0]
    route = Route(
        shape,
        size,
        inside,
        tuple(n - s for n, s in zip(size, stride, strict=True)),
        align_corners=case['align_corners'],
    )
    mask, confidence = np.full(shape, 99, np.uint8), np.empty(shape, np.float32)
    for place, _ in route.cut(np.zeros((*shape, 3), np.uint8)):
        part = image[0, :, place[0].start : place[0].start + size[0], place[1].start : place[1].start + size[1]]
        route.paste(place, (part + bias).numpy(), mask, confidence, 0.3)
    if classes == 1:
        probability = torch.stack([1 - logits[0].sigmoid(), logits[0].sigmoid()])
        expected = probability[1] > 0.3
    else:
        probability, expected = logits.softmax(0), logits.argmax(0)
    best = probability.gather(0, torch.from_numpy(mask).long()[None])[0]
    assert np.allclose(confidence, best, atol=1e-5)
    assert (mask == expected.numpy()).mean() == 1 or (probability.amax(0) - best).max() < 1e-5


def test_by_their_middle_tiles_are_blended_without_a_seam() -> None:
    """Of two that contradict each other, one passes to the other; and memory is that of a row of tiles."""
    route = Route((100, 10), (8, 8), overlap=(4, 4), centred=True)
    mask, confidence = np.empty((100, 10), np.uint8), np.empty((100, 10), np.float32)
    for place, _ in route.cut(np.zeros((100, 10, 3), np.uint8)):
        logits = np.zeros((2, 8, 8), np.float32)
        logits[place[1].start // 2] = 4
        route.paste(place, logits, mask, confidence)
    assert (np.diff(mask.astype(int), axis=1) >= 0).all() and mask[0, 0] == 0 and mask[0, -1] == 1
    assert (np.abs(np.diff(confidence, axis=1)) < 0.5).all() and confidence[50, 5] < 0.7 < confidence[50, 0]
    assert route._band.sums.shape == (2, 9, 10)


def test_a_sigmoid_says_class_1_above_its_threshold() -> None:
    logits = np.array([[[-2, 0, 2]]], np.float32)
    mask, confidence = decide(logits, 1, 0.4, True)
    assert mask.tolist() == [[0, 1, 1]]
    with pytest.raises(ValueError, match='does not hold the threshold of its sigmoid: export the model again'):
        decide(logits, 1, None, False)
    assert np.allclose(confidence, [[1 / (1 + np.exp(-2)), 0.5, 1 / (1 + np.exp(-2))]])


def test_of_equal_logits_the_first_wins_and_many_classes_need_sixteen_bits() -> None:
    logits = np.zeros((300, 1, 2), np.float32)
    logits[[7, 299], 0, 1] = 1
    mask, confidence = decide(logits, 300, None, False)
    assert mask.dtype == np.uint16 and mask.tolist() == [[0, 7]] and confidence is None


def test_scaled_halves_come_back_as_halves() -> None:
    image = np.zeros((40, 80, 3), np.uint8)
    image[:, 40:] = 255
    route = Route((40, 80), (20, 20), (10, 20))
    [(place, piece)] = route.cut(image)
    mask = np.empty((40, 80), np.uint8)
    route.paste(place, (piece[..., 0] > 127).astype(np.uint8), mask)
    assert np.array_equal(mask, image[..., 0] // 255)
