"""The facts about an image and its mask on disk, read strictly, without torch or OpenMMLab."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from PIL import Image, UnidentifiedImageError

ORIENTATION = 0x0112  # the EXIF tag
TRANSPOSING = (5, 6, 7, 8)  # the orientations that swap width and height


@dataclass(frozen=True)
class Reading:
    """How the config's pipeline reads files, where it makes a difference."""

    turns_images: bool = True  # whether the image loader obeys the EXIF orientation; mask loaders never do
    expands_palettes: bool = False  # whether palette masks become colours (OpenCV) or stay indices (Pillow)


@dataclass(frozen=True)
class Sample:
    """What one image and its mask are; a fault is why a file cannot be read, empty if it can."""

    image: str
    mask: str
    image_fault: str = ''
    image_mode: str = ''  # Pillow's: RGB, L, RGBA, P, I;16, …
    image_size: tuple[int, int] = (0, 0)  # (width, height) as stored
    orientation: int = 1  # EXIF: 1 is upright
    image_digest: bytes = b''  # of the decoded pixels
    mask_fault: str = ''
    mask_missing: bool = False
    mask_format: str = ''
    mask_mode: str = ''  # Pillow's; 'L;4' and 'L;2' where several labels share a byte
    mask_size: tuple[int, int] = (0, 0)
    mask_digest: bytes = b''
    channels: int = 1  # of the mask, as the loader gets it
    grey: bool = False  # whether the channels of a mask of several are equal
    largest: int = 0  # label before the loader's cast to 8 bits
    counts: tuple[tuple[int, int], ...] = ()  # (label after that cast, its number of pixels)
    palette: tuple[tuple[int, tuple[int, int, int]], ...] = ()  # (label, its colour) of a palette mask

    @property
    def loaded_size(self) -> tuple[int, int]:
        """Width and height of the image after an upright loader has obeyed its orientation."""
        return self.image_size[::-1] if self.orientation in TRANSPOSING else self.image_size


def examine(files: tuple[str, str], *, reading: Reading = Reading(), pixels: bool = True) -> Sample:
    """Read an image and its mask and say what they are; without `pixels`, only the header of the image is read."""
    image, mask = files
    facts: dict[str, object] = {'image': image, 'mask': mask}
    facts['image_fault'] = _fault_of(lambda: facts.update(_examine_image(image, pixels)))
    if os.path.lexists(mask):
        facts['mask_fault'] = _fault_of(lambda: facts.update(_examine_mask(mask, reading)))
    else:
        facts['mask_missing'] = True
    return Sample(**facts)  # type: ignore[arg-type]


def damage(path: str) -> str:
    """Return why an image or mask cannot be loaded, by Pillow or by OpenCV; empty if both can."""

    def decode() -> None:
        _open(path, decode=True)
        if cv2.imdecode(np.fromfile(path, np.uint8), cv2.IMREAD_UNCHANGED) is None:
            raise OSError('OpenCV cannot decode it')

    return _fault_of(decode)


def _fault_of(read: Callable[[], None]) -> str:
    try:
        read()
    except UnidentifiedImageError:
        return 'is not an image, or its beginning is damaged'
    # Broken files make Pillow raise nearly anything: SyntaxError for PNG, struct.error, DecompressionBombError.
    except Exception as error:
        strerror = getattr(error, 'strerror', None)
        return ' '.join(str(strerror or error or type(error).__name__).split())
    return ''


def _open(path: str, *, decode: bool) -> Image.Image:
    if Path(path).stat().st_size == 0:
        raise OSError('is empty')
    image = Image.open(path)
    if decode:
        image.load()
        if image.format == 'PNG':  # whose checksums Pillow doesn't look at when it decodes, as others do
            Image.open(path).verify()
    return image


def _examine_image(path: str, pixels: bool) -> dict[str, object]:
    with _open(path, decode=pixels) as image:
        facts = {
            'image_mode': image.mode,
            'image_size': image.size,
            'orientation': image.getexif().get(ORIENTATION, 1),
        }
        if pixels:
            # The same picture in another encoding has the same pixels; modes of more than 8 bits have no RGB.
            deep = image.mode == 'RGB' or image.mode.startswith(('I', 'F'))
            facts['image_digest'] = digest(np.asarray(image if deep else image.convert('RGB')))
        return facts


def _examine_mask(path: str, reading: Reading) -> dict[str, object]:
    with Image.open(path) as header:  # says how labels are packed, unlike a decoded image
        packing = next((args for *_, args in header.tile if isinstance(args, str)), '')
    with _open(path, decode=True) as image:
        facts: dict[str, object] = {'mask_format': image.format, 'mask_size': image.size, 'mask_mode': image.mode}
        if packing in ('L;2', 'L;4'):
            facts['mask_mode'] = packing
        colours = image.getpalette('RGB') if image.mode == 'P' else None
        if colours and reading.expands_palettes:
            image = image.convert('RGB')
            colours = None
        labels = np.asarray(image)
    facts['mask_digest'] = digest(labels)
    if labels.ndim == 3:
        return facts | {'channels': labels.shape[2], 'grey': bool((labels[..., :3] == labels[..., :1]).all())}
    facts['largest'] = int(labels.max())
    histogram = np.bincount(labels.astype(np.uint8).ravel(), minlength=256)
    used = np.flatnonzero(histogram).tolist()
    facts['counts'] = tuple((label, int(histogram[label])) for label in used)
    if colours:
        facts['palette'] = tuple((i, tuple(colours[3 * i : 3 * i + 3])) for i in used if 3 * i < len(colours))
    return facts


def digest(pixels: np.ndarray) -> bytes:
    """Return a hash of an array's shape, type and values."""
    result = hashlib.blake2b(f'{pixels.shape}{pixels.dtype}'.encode(), digest_size=16)
    result.update(np.ascontiguousarray(pixels).data)
    return result.digest()
