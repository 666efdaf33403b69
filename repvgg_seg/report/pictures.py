"""The best and the worst images of an evaluation, and how they get into a page."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image

Array = np.ndarray[Any, Any]

LONGEST_SIDES = (1024, 768, 512, 384, 256)  # of pictures, the first of which the limit allows
MAX_BYTES = 3_500_000  # of all pictures of a page


@dataclass(frozen=True)
class Segmented:
    """One image of the test set: its name and file, its mIoU, and what is drawn of it."""

    name: str
    path: str
    mean_iou: float  # over the classes that it shows or that were found in it, in percent
    truth: Array  # (H, W) class indices; what is none is ignored
    prediction: Array  # (H, W) class indices
    confidence: Array  # (H, W) uint8: 255 is sure


class Extremes:
    """Keeps the `number` worst and the `number` best of all images that are added."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.kept: list[Segmented] = []

    def add(self, segmented: Segmented) -> None:
        """Look at one more."""
        self.kept.append(segmented)
        self.kept.sort(key=lambda one: one.mean_iou)
        if len(self.kept) > 2 * self.number:
            del self.kept[self.number]

    @property
    def worst(self) -> list[Segmented]:
        """The worst ones, the worst first."""
        return self.kept[: self.number]

    @property
    def best(self) -> list[Segmented]:
        """The best ones that are not among the worst, the best first."""
        return self.kept[self.number :][::-1]


@dataclass(frozen=True)
class Picture:
    """An image for the page: its layers as data URIs by name, all of one size."""

    name: str
    mean_iou: float
    width: int
    height: int
    layers: dict[str, str]

    @property
    def bytes(self) -> int:
        """What it takes in the page."""
        return sum(map(len, self.layers.values()))


def draw(images: Sequence[Segmented], read: Callable[[str], Array], palette: Sequence[Sequence[int]]) -> list[Picture]:
    """Draw `images`, whose pixels `read` returns as (H, W, 3) RGB, as large as MAX_BYTES allows."""
    for side in LONGEST_SIDES:
        pictures = [_picture(one, read(one.path), palette, side) for one in images]
        if sum(picture.bytes for picture in pictures) <= MAX_BYTES:
            break
    return pictures


def _picture(one: Segmented, pixels: Array, palette: Sequence[Sequence[int]], side: int) -> Picture:
    height, width = one.truth.shape
    scale = min(1, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))

    def mask(classes: Array) -> str:
        known = (classes >= 0) & (classes < len(palette))
        colours = np.zeros((height, width, 4), np.uint8)  # what is ignored is transparent
        colours[..., :3] = np.asarray(palette, np.uint8).reshape(-1, 3)[np.where(known, classes, 0)]
        colours[..., 3] = 255 * known
        return _uri(Image.fromarray(colours).resize(size, Image.Resampling.NEAREST), 'PNG', optimize=True)

    confidence = Image.fromarray(one.confidence).resize(size, Image.Resampling.BILINEAR)
    layers = {
        'image': _uri(Image.fromarray(pixels).resize(size, Image.Resampling.LANCZOS), 'JPEG', quality=82),
        'truth': mask(one.truth),
        'prediction': mask(one.prediction),
        'confidence': _uri(confidence, 'JPEG', quality=75),
    }
    return Picture(one.name, one.mean_iou, *size, layers)


def _uri(picture: Image.Image, kind: str, **options: Any) -> str:
    buffer = io.BytesIO()
    picture.save(buffer, kind, **options)
    return f'data:image/{kind.lower()};base64,{base64.b64encode(buffer.getvalue()).decode()}'
