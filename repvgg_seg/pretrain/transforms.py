"""The transforms of an image before the network, all on uint8 tensors (3, H, W)."""

from __future__ import annotations

import io
import math
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.io import ImageReadMode, decode_image
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as F

Transform = Callable[[Tensor], Tensor]

AUGMENTATIONS = ('none', 'autoaugment', 'raug15')


def decode(data: bytes, name: str) -> Tensor:
    """Return the image in `data` as uint8 RGB (3, H, W): JPEG, PNG and whatever else PIL reads.

    Gray, CMYK, palettes and 16 bits become 8-bit RGB; transparency is dropped and a rotation in EXIF ignored, as the
    authors' pipeline does.

    Raises:
        ValueError: it is damaged; says which file.
    """
    try:
        image = decode_image(torch.frombuffer(bytearray(data), dtype=torch.uint8), mode=ImageReadMode.RGB)
    except (RuntimeError, ValueError):  # damaged, or of another kind
        try:
            with Image.open(io.BytesIO(data)) as picture:
                image = torch.from_numpy(np.array(picture.convert('RGB'))).permute(2, 0, 1)
        except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
            raise ValueError(f'{name} cannot be decoded ({error}): replace or delete it') from error
    if image.dtype == torch.uint16:
        image = (image.to(torch.int32) >> 8).to(torch.uint8)
    return image if image.ndim == 3 else image[0]  # the first picture of an animation


def train_transform(resolution: int, augmentation: str = 'none') -> Transform:
    """Return random resized crop, flip and `augmentation`, one of AUGMENTATIONS.

    Raises:
        ValueError: there is no such augmentation.
    """
    steps: list[Transform] = [v2.RandomResizedCrop(resolution, antialias=True), v2.RandomHorizontalFlip()]
    if augmentation == 'autoaugment':
        steps.append(v2.AutoAugment(interpolation=v2.InterpolationMode.BILINEAR, fill=[128, 128, 128]))
    elif augmentation == 'raug15':
        steps.append(raug15)
    elif augmentation != 'none':
        raise ValueError(f'there is no augmentation {augmentation!r}: choose one of {", ".join(AUGMENTATIONS)}')
    return v2.Compose(steps)


def test_transform(resolution: int) -> Transform:
    """Return the centre crop that published figures use.

    At 224 the shorter side becomes 256 first. At any other resolution it becomes that resolution, and the crop cuts
    the longer side alone.

    Source: the authors' repository, for 224 and 320.
    """
    shorter = 256 if resolution == 224 else resolution
    return v2.Compose([v2.Resize(shorter, antialias=True), v2.CenterCrop(resolution)])


def raug15(image: Tensor) -> Tensor:
    """Apply two random operations of random strength, as RepVGGplus is trained with.

    Unlike RandAugment the strength is drawn anew for each, a whole number from 0 to 14 where 10 is RandAugment's full
    strength. Warped images are sampled bilinearly only.

    Source: the authors' repository, `raug15`.
    """
    for _ in range(2):
        level = _integer(15) / 10
        image = _OPERATIONS[_integer(len(_OPERATIONS))](image, level)
    return image


def _integer(end: int) -> int:
    return int(torch.randint(end, ()))


def _signed(value: float) -> float:
    return value if _integer(2) else -value


def _affine(image: Tensor, *, shear: tuple[float, float] = (0, 0), shift: tuple[float, float] = (0, 0)) -> Tensor:
    """Shear by the given slopes about the first pixel, or shift by shares of width and height."""
    height, width = image.shape[-2:]
    return F.affine(
        image,
        angle=0,
        translate=[round(shift[0] * width), round(shift[1] * height)],
        scale=1,
        shear=[math.degrees(math.atan(slope)) for slope in shear],
        interpolation=v2.InterpolationMode.BILINEAR,
        fill=_FILL,
        center=[0, 0],
    )


def _rotate(image: Tensor, level: float) -> Tensor:
    return F.rotate(image, _signed(30 * level), interpolation=v2.InterpolationMode.BILINEAR, fill=_FILL)


def _solarize(image: Tensor, level: float) -> Tensor:
    threshold = int(256 * level)
    return F.solarize(image, threshold) if threshold < 256 else image


def _solarize_add(image: Tensor, level: float) -> Tensor:
    brighter = (image.to(torch.int16) + int(110 * level)).clamp_max(255).to(torch.uint8)
    return torch.where(image < 128, brighter, image)


def _cutout(image: Tensor, level: float) -> Tensor:
    """Paint a square of up to 56 pixels, centred anywhere."""
    height, width = image.shape[-2:]
    half = int(max(2.0, 40 * level)) // 2
    y, x = _integer(height), _integer(width)
    image = image.clone()
    image[:, max(0, y - half) : y + half, max(0, x - half) : x + half] = torch.tensor(
        [125, 122, 113], dtype=torch.uint8
    ).reshape(3, 1, 1)
    return image


_FILL = [128.0, 128.0, 128.0]
_OPERATIONS: tuple[Callable[[Tensor, float], Tensor], ...] = (
    lambda image, level: F.autocontrast(image),
    lambda image, level: F.equalize(image),
    lambda image, level: F.invert(image),
    _rotate,
    lambda image, level: F.posterize(image, int(4 * level)),
    _solarize,
    _solarize_add,
    lambda image, level: F.adjust_saturation(image, 0.1 + 1.8 * level),
    lambda image, level: F.adjust_contrast(image, 0.1 + 1.8 * level),
    lambda image, level: F.adjust_brightness(image, 0.1 + 1.8 * level),
    lambda image, level: F.adjust_sharpness(image, 0.1 + 1.8 * level),
    lambda image, level: _affine(image, shear=(_signed(0.3 * level), 0)),
    lambda image, level: _affine(image, shear=(0, _signed(0.3 * level))),
    lambda image, level: _affine(image, shift=(_signed(0.45 * level), 0)),
    lambda image, level: _affine(image, shift=(0, _signed(0.45 * level))),
    _cutout,
)
