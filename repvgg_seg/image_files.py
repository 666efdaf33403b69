"""Image files, opened in one place: of the formats named here, by content and not by name, and of a bounded size."""

from __future__ import annotations

import functools
import os
import threading
from typing import IO

from PIL import EpsImagePlugin, Image, ImageFile, UnidentifiedImageError

from .files import FileError, StrPath

# Pillow reads others as well, of which EPS runs Ghostscript on what the file says.
FORMATS = ('AVIF', 'BMP', 'GIF', 'JPEG', 'JPEG2000', 'MPO', 'PNG', 'PPM', 'TIFF', 'WEBP')
# A file of a few kilobytes can claim to be of any size. Decoding takes up to ten bytes a pixel.
MAX_PIXELS = 1 << 29
_PIL_LIMIT = threading.Lock()


def open_image(source: StrPath | IO[bytes], max_pixels: int | None = None) -> ImageFile.ImageFile:
    """Open an image file and read its head; its pixels are read where they are used.

    Raises:
        OSError: it cannot be read, or (UnidentifiedImageError) is of none of FORMATS.
        FileError: it claims more than `max_pixels`, or MAX_PIXELS.
    """
    with _PIL_LIMIT:  # Pillow's own limit is one for the whole process, and lower
        limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
        try:
            image = Image.open(source, formats=_known())
        finally:
            Image.MAX_IMAGE_PIXELS = limit
    if image.width * image.height > (MAX_PIXELS if max_pixels is None else max_pixels):
        image.close()
        name = os.fsdecode(image.filename) or 'the image'
        raise FileError(
            f'{name} claims {image.width}x{image.height} pixels, more than are decoded at once: cut it into parts'
        )
    return image


def forbid_ghostscript() -> None:
    """Let no reader of this process start Ghostscript: those of other packages, such as mmcv's, open any format."""
    EpsImagePlugin.gs_binary = False


@functools.cache
def _known() -> tuple[str, ...]:
    """Return those of FORMATS that this Pillow knows."""
    Image.init()
    return tuple(name for name in FORMATS if name in Image.OPEN)


def fault(name: object, error: Exception) -> str:
    """Say why an image could not be read or decoded; decoders raise nearly anything over a broken file."""
    if isinstance(error, FileError):
        return str(error)
    if isinstance(error, UnidentifiedImageError):
        return f'{name} is not an image of a known format ({", ".join(_known())})'
    if isinstance(error, MemoryError):
        return f'{name} needs more memory than is free here: free some, or cut it into parts'
    if isinstance(error, OSError) and error.strerror:  # the system's, not a decoder's
        return f'{name} cannot be read ({error.strerror})'
    return f'{name} cannot be read, it is damaged or cut short ({error or type(error).__name__})'
