"""Image files of any kind as the 8-bit RGB arrays that a segmentor was trained on."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from ..files import FileError, StrPath
from ..image_files import fault, open_image
from .metadata import Decoder

Array = np.ndarray[Any, Any]  # (H, W, 3) uint8 RGB, or several of them (n, H, W, 3)

# What a folder is searched for; a file that is named itself may end in anything.
SUFFIXES = frozenset(
    ['.avif', '.bmp', '.gif', '.jp2', '.jpeg', '.jpg', '.pbm', '.pgm', '.png', '.pnm', '.ppm', '.tif', '.tiff', '.webp']
)


def read_image(
    path: StrPath, *, upright: bool = True, decoder: Decoder = 'cv2', max_pixels: int | None = None
) -> Array:
    """Return an image file as (H, W, 3) uint8 RGB, as mmcv's reader gives it to a segmentor in training.

    Grey becomes three equal channels, alpha is dropped (of a TIFF multiplied in), 16 bits are cut to their upper 8, a
    palette and CMYK are converted, an EXIF orientation is applied unless not `upright` (of a TIFF always, of an AVIF
    never), and of several frames the first counts. That is how OpenCV reads; of `decoder='pillow'`, as mmcv uses it,
    the orientation counts in all formats alike, grey with alpha is laid over a colour, other alpha is dropped, and
    Pillow itself brings other modes to RGB: 16 bits are mostly cut to white.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is not a path.
        FileError: it is not an image of a known format, cut short, larger than `max_pixels` (or the most
            that is decoded at once) or than the memory, or of 32 bits a channel.
    """
    if not isinstance(path, str | os.PathLike):
        raise ValueError(f'an image is a path or an array (H, W, 3) of uint8 in RGB, not of type {type(path).__name__}')
    path = Path(path)
    try:
        if path.is_dir():
            raise FileError(f'{path} is a folder, not an image')
        if path.stat().st_size == 0:
            raise FileError(f'{path} is empty: copy it again')
        with open_image(path, max_pixels) as image:
            image.filename = ''  # else Pillow maps some TIFF files into memory, and these it does not turn
            if upright and (image.format != 'AVIF' or decoder == 'pillow'):
                ImageOps.exif_transpose(image, in_place=True)
            return _to_rgb(image, path) if decoder == 'cv2' else _by_pillow(image)
    except FileNotFoundError:
        raise FileNotFoundError(f'{path} does not exist: check the path') from None
    except FileError:
        raise
    except Exception as error:
        raise FileError(fault(path, error)) from error


def _to_rgb(image: Image.Image, path: Path) -> Array:
    # Pillow opens a grey PGM, and older ones a grey PNG, of 16 bits as 'I', and these formats know no more bits.
    if image.mode.startswith('I;16') or (image.mode == 'I' and image.format in ('PNG', 'PPM')):
        grey = (np.asarray(image).astype(np.int32) >> 8).astype(np.uint8)
        return np.repeat(grey[..., None], 3, axis=2)
    if image.mode in ('I', 'F'):
        raise FileError(f'{path} has 32 bits a pixel, and the range of its values is not known: convert it to 8 bits')
    if image.format == 'TIFF' and image.mode == 'RGBA':
        return np.ascontiguousarray(np.asarray(image.convert('RGBa'))[..., :3])
    return np.array(image if image.mode == 'RGB' else image.convert('RGB'))


def _by_pillow(image: Image.Image) -> Array:
    if image.mode == 'LA':
        canvas = Image.new('RGB', image.size, (124, 117, 104))  # mmcv's
        canvas.paste(image.convert('RGB'), mask=image.getchannel('A'))
        image = canvas
    return np.array(image if image.mode == 'RGB' else image.convert('RGB'))
