"""What an application imports: one exported file in, masks out.

    segmenter = Segmenter('model.onnx')
    mask = segmenter('street.png')

Torch is imported for .pt2 files only, and nothing of OpenMMLab ever.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NoReturn, overload

import cv2
import numpy as np

from ..files import StrPath
from .backends import open_model
from .images import Array, read_image
from .prefetch import ahead_of, ordered, until_error
from .tiling import Fit, Mask, Scaled, Size, Tiles

Source = StrPath | Array  # an image file, or (H, W, 3) uint8 RGB; of a model for C other channels (H, W, C) only


class Segmented(NamedTuple):
    """One image of a stream: where it came from, the image (H, W, 3), and its class indices (H, W)."""

    source: Any
    image: Array
    mask: Mask


@dataclass
class _Job:
    """One image on its way: what it is cut into, and where the classes go."""

    source: Any
    image: Array
    fit: Fit
    mask: Mask
    missing: int  # pieces that are not in the mask yet

    def cut(self) -> Iterable[tuple[Any, Array]]:
        """Yield the pieces, and where each belongs."""
        return self.fit.cut(self.image)

    def result(self) -> Mask:
        """Return the mask."""
        return self.mask


@dataclass
class _Failure:
    """An image that cannot be segmented, which is told when its turn comes."""

    source: Any
    error: Exception
    missing = 0

    def cut(self) -> tuple[()]:
        """Return no piece."""
        return ()

    def result(self) -> NoReturn:
        """Raise what is wrong with it."""
        raise self.error


class Segmenter:
    """Segments images of any size with one file that tools/export.py wrote.

    `backend`: 'openvino' or 'onnxruntime' for .onnx, 'openvino' for .xml, 'torch' for .pt2; 'auto' takes, of those that
    are installed, the one that is fastest on a CPU. `device`: 'cpu', 'cuda' (onnxruntime, torch) or one of OpenVINO's;
    'auto' is a CUDA device where the backend has one, else the CPU. `mode`: in 'throughput', OpenVINO runs several
    images (or tiles) of a list or a stream at once, each on some of the cores; in 'latency' one by one on all of them.

    `fit`, for images that are not of the exported size: 'tile' keeps the scale the network was trained at, cutting
    larger images into tiles that overlap by `overlap` pixels (default: a quarter of the shorter side) and filling
    smaller ones up with ImageNet's mean colour; 'resize' scales the image to fit, and its classes back. Tiles cannot
    see what is beyond them, as pyramid pooling would: where that matters, export at the size of the images.

    `batch`: how many images run at once, where the file was exported for any number (default: 1).

    `trust`: open a .pt2 file, which can run code of its author (docs/security.md). It is a permission: .onnx and .xml
    files, which run no code, open with and without it.

    Raises:
        FileNotFoundError: the file is not there.
        ImportError: no backend that runs it is installed.
        ValueError: the file cannot be used, or an argument does not fit it.
    """

    def __init__(
        self,
        path: StrPath,
        *,
        backend: str = 'auto',
        device: str = 'auto',
        mode: Literal['latency', 'throughput'] = 'latency',
        fit: Literal['tile', 'resize'] = 'tile',
        overlap: int | None = None,
        batch: int | None = None,
        trust: bool = False,
    ) -> None:
        if fit not in ('tile', 'resize'):
            raise ValueError(f'there is no fit {fit!r}: choose tile or resize')
        self.backend, self._model = open_model(path, backend, device, mode, trust=trust)
        self.metadata = self._model.metadata
        if self.metadata.output != 'classes':
            raise ValueError(f'{path} was exported to return {self.metadata.output}, and a mask needs classes')
        self.classes = self.metadata.classes
        self.palette = np.array(self.metadata.palette, np.uint8)  # (classes, 3) RGB
        self.size: Size = self.metadata.size
        if fit == 'resize' and overlap is not None:
            raise ValueError('an overlap is between tiles: leave it out with fit="resize"')
        overlap = min(self.size) // 4 if overlap is None else overlap
        if not 0 <= overlap < min(self.size):
            raise ValueError(f'tiles of {self.size[0]}x{self.size[1]} cannot overlap by {overlap} pixels')
        self.fit, self.overlap = fit, overlap
        fixed = self.metadata.batch
        if batch is not None and (batch < 1 or fixed not in (None, batch)):
            raise ValueError(f'{path} runs {"any number from 1" if fixed is None else fixed} at once, not {batch}')
        self.batch = batch or fixed or 1

    @overload
    def __call__(self, image: Source, *, out: Mask | None = None) -> Mask: ...

    @overload
    def __call__(self, image: list[Source]) -> list[Mask]: ...

    def __call__(self, image: Source | list[Source], *, out: Mask | None = None) -> Mask | list[Mask]:
        """Return the class indices (H, W) of an image at its own size, or those of each image of a list.

        They are uint8, above 256 classes uint16. `out` is an array that takes them instead of a new one. Beside the
        image, which may be a memory map, and the mask, which may be one through `out`, memory is that of one tile.

        Raises:
            FileNotFoundError: an image is not there.
            ValueError: an image cannot be read, or an array is not (H, W, 3) uint8.
        """
        if not isinstance(image, list):
            return next(self._run([self._load(image, out)])).result()
        if out is not None:
            raise ValueError('out takes the mask of one image, not those of a list')
        return [job.result() for job in self._run(map(self._load, image))]

    def stream(
        self,
        sources: Iterable[Source],
        *,
        on_error: Callable[[Any, Exception], None] | None = None,
        readers: int = 2,
        ahead: int = 2,
    ) -> Generator[Segmented, None, None]:
        """Yield (source, image, mask) for each source, in order, while the next ones are read and segmented.

        `sources` may be endless, such as the frames of a camera. Files are read by `readers` threads, the network
        runs in another, and what is done with the results happens in the caller's meanwhile; `ahead` results of
        either step wait for the next, so about 2 * ahead + readers + 2 images are in memory. What cannot be read is
        given to `on_error(source, error)` and left out; without it the error is raised. Leaving the loop early ends
        the threads.
        """
        if min(readers, ahead) < 1:
            raise ValueError('a stream needs at least one reader and one image ahead')
        with (
            closing(ahead_of(ordered(self._load, sources, readers), ahead)) as loaded,
            closing(ahead_of(self._run(loaded), ahead)) as jobs,
        ):
            for job in jobs:
                if isinstance(job, _Job):
                    yield Segmented(job.source, job.image, job.result())
                elif on_error is not None:
                    on_error(job.source, job.error)
                else:
                    job.result()

    def colour(self, mask: Mask) -> Array:
        """Return a mask in the palette's colours, (H, W, 3) uint8 RGB.

        Raises:
            ValueError: it has indices that are no class.
        """
        if mask.size and mask.max() >= len(self.palette):
            raise ValueError(f'the mask has class {mask.max()}, and the model knows {len(self.palette)} classes')
        return self.palette.take(mask, axis=0)

    def overlay(self, image: Array, mask: Mask, opacity: float = 0.5) -> Array:
        """Return an image (H, W, 3) under the colours of its mask, of which `opacity` shows.

        Raises:
            ValueError: the model is not for RGB, image and mask are of different sizes, or the opacity is not between 0
                and 1.
        """
        if self.metadata.channels != 3:
            raise ValueError(
                f'an image of {self.metadata.channels} channels has no colours to lay those of a mask over'
            )
        if image.shape != (*mask.shape, 3):
            raise ValueError(f'an image of shape {image.shape} has no mask of shape {mask.shape}')
        if not 0 <= opacity <= 1:
            raise ValueError(f'the opacity is {opacity}, and goes from 0 to 1')
        return cv2.addWeighted(image, 1 - opacity, self.colour(mask), opacity, 0)

    def _load(self, source: Source, out: Mask | None = None) -> _Job | _Failure:
        """Read one image and say how it goes through the graph."""
        try:
            channels, mean = self.metadata.channels, self.metadata.mean
            if channels != 3 and not isinstance(source, np.ndarray):
                raise ValueError(
                    f'this model takes arrays (H, W, {channels}) of uint8, and files are read as RGB: read {source} '
                    'yourself and pass the array'
                )
            image = source if isinstance(source, np.ndarray) else read_image(source)
            if image.shape[2:] != (channels,) or image.dtype != np.uint8 or not image.size:
                order = ' in RGB' if channels == 3 else ''
                raise ValueError(
                    f'an image is an array (H, W, {channels}) of uint8{order}, not {image.shape} of {image.dtype}'
                )
            shape = image.shape[:2]
            dtype = np.uint8 if len(self.classes) <= 256 else np.uint16
            if out is not None and (out.shape, out.dtype) != (shape, dtype):
                raise ValueError(f'out is {out.shape} of {out.dtype}, and the mask {shape} of {np.dtype(dtype)}')
            tiled = self.fit == 'tile'
            fit = Tiles(shape, self.size, self.overlap, mean) if tiled else Scaled(shape, self.size, mean)
            return _Job(source, image, fit, np.empty(shape, dtype) if out is None else out, fit.count)
        except Exception as error:
            return _Failure(source, error)

    def _run(self, jobs: Iterable[_Job | _Failure]) -> Generator[_Job | _Failure, None, None]:
        """Yield the jobs in order, each when its mask is whole."""
        waiting: deque[_Job | _Failure] = deque()
        failure: list[Exception] = []

        def pieces() -> Iterator[tuple[_Job, Any, Array]]:
            for job in until_error(jobs, failure):
                waiting.append(job)
                for place, piece in job.cut():
                    yield job, place, piece

        with closing(self._model.map(self._batches(pieces()))) as results:
            for places, masks in results:
                for (job, place), mask in zip(places, masks, strict=False):  # what filled up the batch has no place
                    job.fit.paste(job.mask, place, mask)
                    job.missing -= 1
                while waiting and not waiting[0].missing:
                    yield waiting.popleft()
        yield from waiting
        if failure:
            raise failure[0]

    def _batches(self, pieces: Iterable[tuple[_Job, Any, Array]]) -> Iterator[tuple[list[tuple[_Job, Any]], Array]]:
        """Yield ([(job, place), ...], (n, H, W, 3)); a fixed batch is filled up with its last piece."""
        group: list[tuple[_Job, Any, Array]] = []

        def batch() -> tuple[list[tuple[_Job, Any]], Array]:
            images = [piece for _, _, piece in group]
            if self.metadata.batch:
                images += images[-1:] * (self.batch - len(images))
            return [(job, place) for job, place, _ in group], images[0][None] if len(images) == 1 else np.stack(images)

        for piece in pieces:
            group.append(piece)
            if len(group) == self.batch:
                yield batch()
                group.clear()
        if group:
            yield batch()
