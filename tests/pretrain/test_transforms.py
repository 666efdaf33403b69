import io
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchvision.transforms import v2

from repvgg_seg.pretrain import transforms
from repvgg_seg.pretrain.transforms import decode, raug15, train_transform
from repvgg_seg.pretrain.transforms import test_transform as centre_crop
from repvgg_seg.randomness import seeded


def encoded(image: Image.Image, kind: str, **options) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def picture(*shape: int) -> np.ndarray:
    """Smooth colours, which JPEG keeps."""
    ramp = np.linspace(0, 255, 24 * 32 * int(np.prod(shape or (1,)))).reshape(24, 32, *shape)
    return ramp.astype('uint8')


@pytest.mark.parametrize(
    ('mode', 'array', 'kind'),
    [
        ('RGB', picture(3), 'JPEG'),
        ('L', picture(), 'JPEG'),
        ('CMYK', picture(4), 'JPEG'),
        ('RGBA', picture(4), 'PNG'),
        ('P', picture() // 32, 'PNG'),
        ('RGB', picture(3), 'BMP'),  # left to PIL
    ],
)
def test_every_kind_of_image_becomes_the_rgb_that_pil_reads(mode: str, array: np.ndarray, kind: str) -> None:
    image = Image.fromarray(array, mode)
    if mode == 'P':
        image.putpalette([*range(0, 255, 3)] * 3)
    data = encoded(image, kind)
    expected = np.asarray(Image.open(io.BytesIO(data)).convert('RGB')).astype(int)
    result = decode(data, 'x')
    assert result.dtype == torch.uint8 and result.shape == (3, 24, 32)
    assert np.abs(result.permute(1, 2, 0).numpy() - expected).max() <= 2  # two libraries round differently


def test_sixteen_bits_are_scaled_and_not_clipped() -> None:
    values = np.array([[0, 255, 256, 65535]] * 2, dtype='uint16')
    result = decode(encoded(Image.fromarray(values), 'PNG'), 'x')
    assert result[:, 0].tolist() == [[0, 0, 1, 255]] * 3


@pytest.mark.parametrize('damage', [lambda data: data[: len(data) // 2], lambda data: b'', lambda data: b'GIF89a'])
def test_a_damaged_image_is_named(damage) -> None:
    data = damage(encoded(Image.fromarray(picture(3)), 'JPEG'))
    with pytest.raises(ValueError, match=r'n01/7\.JPEG cannot be decoded \(.*\): replace or delete it'):
        decode(data, 'n01/7.JPEG')


@pytest.mark.parametrize(('resolution', 'shorter'), [(224, 256), (320, 320), (64, 64)])
def test_the_centre_crop_is_that_of_published_figures(resolution: int, shorter: int) -> None:
    image = torch.randint(0, 256, (3, 300, 450), dtype=torch.uint8)
    resized = v2.functional.resize(image, [shorter, shorter * 450 // 300], antialias=True)
    top, left = (round((side - resolution) / 2) for side in resized.shape[1:])
    assert torch.equal(centre_crop(resolution)(image), resized[:, top : top + resolution, left : left + resolution])


@pytest.mark.parametrize('augmentation', transforms.AUGMENTATIONS)
def test_augmentations_stay_in_uint8_and_differ(augmentation: str) -> None:
    image = torch.randint(0, 256, (3, 40, 50), dtype=torch.uint8)
    outputs = []
    for seed in range(3):
        with seeded(seed):
            outputs.append(train_transform(32, augmentation)(image))
    assert all(out.dtype == torch.uint8 and out.shape == (3, 32, 32) for out in outputs)
    assert not torch.equal(outputs[0], outputs[1])


def test_unknown_augmentation() -> None:
    with pytest.raises(ValueError, match=re.escape("no augmentation 'raug'")):
        train_transform(32, 'raug')


@given(st.integers(0, 15), st.integers(0, 14), st.integers(0, 100))
def test_each_operation_takes_each_level(operation: int, level: int, seed: int) -> None:
    image = torch.randint(0, 256, (3, 17, 23), dtype=torch.uint8)
    with seeded(seed):
        out = transforms._OPERATIONS[operation](image, level / 10)
    assert out.shape == image.shape and out.dtype == torch.uint8


def test_operations_do_what_the_authors_do(monkeypatch) -> None:
    """Against PIL, which their code calls, at a level beyond RandAugment's strongest."""
    from PIL import ImageEnhance, ImageOps

    array = np.random.default_rng(0).integers(0, 256, (33, 47, 3)).astype('uint8')
    rows, columns = np.mgrid[:33, :47]  # warps meet between pixels, where only smooth images have one value
    smooth = np.stack([columns * 5, rows * 7, (rows + columns) * 3], -1).astype('uint8')
    image, tensor = Image.fromarray(array), torch.from_numpy(array).permute(2, 0, 1)
    monkeypatch.setattr(transforms, '_integer', lambda end: end // 2)  # the sign +, the centre of cutouts
    level, affine = 1.2, Image.Transform.AFFINE
    factor, grey = 0.1 + 1.8 * level, (128, 128, 128)
    lut = [min(255, i + 132) if i < 128 else i for i in range(256)]
    bilinear = {'resample': Image.Resampling.BILINEAR, 'fillcolor': grey}
    ramp = Image.fromarray(smooth)
    warped = {  # to either side at random, so the sign of a level means nothing
        11: ramp.transform(ramp.size, affine, (1, 0.36, 0, 0, 1, 0), **bilinear),
        12: ramp.transform(ramp.size, affine, (1, 0, 0, 0.36, 1, 0), **bilinear),
        13: ramp.transform(ramp.size, affine, (1, 0, -25, 0, 1, 0), **bilinear),
        14: ramp.transform(ramp.size, affine, (1, 0, 0, 0, 1, -18), **bilinear),
        3: ramp.rotate(36, **bilinear),
    }
    exact = {
        0: ImageOps.autocontrast(image),
        1: ImageOps.equalize(image),
        2: ImageOps.invert(image),
        4: ImageOps.posterize(image, 4),
        5: ImageOps.solarize(image, 307),
        6: image.point(lut * 3),
        7: ImageEnhance.Color(image).enhance(factor),
        8: ImageEnhance.Contrast(image).enhance(factor),
        9: ImageEnhance.Brightness(image).enhance(factor),
        10: ImageEnhance.Sharpness(image).enhance(factor),
    }
    for index, expected in (exact | warped).items():
        given = torch.from_numpy(smooth).permute(2, 0, 1) if index in warped else tensor
        out = transforms._OPERATIONS[index](given, level).permute(1, 2, 0).numpy().astype(int)
        difference = np.abs(out - np.asarray(expected).astype(int))
        # Rounding, which enhancement amplifies; for warps also the border, which the libraries blend differently.
        assert np.percentile(difference, 95 if index in warped else 100) <= 3, index
    cut = transforms._cutout(tensor, 0.5)
    assert (cut[:, 6:26, 13:33] == torch.tensor([125, 122, 113])[:, None, None]).all()
    assert (cut != tensor).any(0).sum() <= 400


def test_raug15_draws_two_operations_of_levels_up_to_fourteen(monkeypatch) -> None:
    drawn = []
    monkeypatch.setattr(
        transforms, '_OPERATIONS', tuple(lambda image, level, i=i: drawn.append((i, level)) or image for i in range(16))
    )
    for _ in range(400):
        raug15(torch.zeros(3, 4, 4, dtype=torch.uint8))
    assert len(drawn) == 800
    assert {index for index, _ in drawn} == set(range(16))
    assert {level for _, level in drawn} == {n / 10 for n in range(15)}
