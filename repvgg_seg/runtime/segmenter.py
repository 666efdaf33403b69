"""What an application imports: one exported file in, masks out.

    segmenter = Segmenter('model.onnx')
    mask = segmenter('street.png')

Torch is imported for .pt2 files only, and nothing of OpenMMLab ever.
"""

from __future__ import annotations

import functools
import os
import threading
import warnings
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, NoReturn, overload

import cv2
import numpy as np

from ..files import FileError, StrPath
from .backends import Backend, open_model
from .hub import located
from .images import Array, read_image
from .metadata import FITS, Fit, Port
from .precision import PRECISIONS
from .prefetch import ahead_of, ordered, until_error
from .tiling import Confidence, Mask, Route, Size, fitted

Source = StrPath | Array  # an image file, or (H, W, 3) uint8 RGB; of a model for C other channels (H, W, C) only


class Segmented(NamedTuple):
    """One image of a stream: where it came from, the image (H, W, 3), and its class indices (H, W)."""

    source: Any
    image: Array
    mask: Mask


class SegmentedWithConfidence(NamedTuple):
    """As Segmented, with the probability (H, W), float32, of the class that the mask names."""

    source: Any
    image: Array
    mask: Mask
    confidence: Confidence


@dataclass
class _Job:
    """One image on its way: what it is cut into, and where the classes go."""

    source: Any
    image: Array
    route: Route
    mask: Mask
    confidence: Confidence | None
    missing: int  # pieces that are not in the mask yet
    error: Exception | None = None  # why this image cannot be segmented, though it was read

    def cut(self) -> Iterable[tuple[Any, Array]]:
        """Yield the pieces, and where each belongs."""
        return self.route.cut(self.image)

    def result(self) -> Any:
        """Return the mask, with its confidence if that was wanted; raise why there is none."""
        if self.error is not None:
            raise self.error
        return self.mask if self.confidence is None else (self.mask, self.confidence)


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


_OF_PARENTS: list[Backend] = []  # models of processes that this one was forked from


class Segmenter:
    """Segments images of any size with one file that tools/export.py wrote.

    `path` may also be the address of a published model, `hf://user/name@revision` or `file://` with a folder.

    `backend`: 'openvino' or 'onnxruntime' for .onnx, 'openvino' for .xml, 'torch' for .pt2; 'auto' takes, of those that
    are installed, the one that is fastest on a CPU. `device`: 'cpu', 'cuda' (onnxruntime, torch) or one of OpenVINO's;
    'auto' is a CUDA device where the backend has one, else the CPU. `mode`: in 'throughput', OpenVINO runs several
    images (or tiles) of a list or a stream at once, each on some of the cores; in 'latency' one by one on all of them.

    `fit`: 'test' prepares an image as the config's test pipeline did, and so scores what was measured; 'resize' scales
    it to fit into the exported size; 'tile' keeps its own scale, cutting larger images into tiles that overlap by
    `overlap` pixels (default: a quarter of the shorter side), for images that show more than those of the training
    rather than the same in more pixels. Logits are blended there, by how near they are to the middle of their tile;
    classes are cut. 'auto' is what the file says, 'test' unless it was exported with --fit.
    'test' needs images that become the exported size. Others keep their aspect and, where they are no larger, their
    scale, and are padded, which is told once by a warning: docs/sizes.md has what that costs. Padding is of ImageNet's
    mean colour.

    `batch`: how many images run at once, where the file was exported for any number (default: 1).

    `trust`: open a .pt2 file, which can run code of its author (SECURITY.md). It is a permission: .onnx and .xml
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
        fit: Literal['auto'] | Fit = 'auto',
        overlap: int | None = None,
        batch: int | None = None,
        trust: bool = False,
    ) -> None:
        if fit not in ('auto', *FITS):
            raise ValueError(f'there is no fit {fit!r}: choose auto, {", ".join(FITS)}')
        self.path = path = located(path)
        self._open = functools.partial(open_model, os.path.abspath(path), backend, device, mode, trust=trust)
        self._arguments = {'fit': fit, 'overlap': overlap, 'batch': batch}
        self.backend, self._model = self._open()
        self._process = os.getpid()
        self.metadata = self._model.metadata
        self.classes = self.metadata.classes
        self.palette = np.array(self.metadata.palette, np.uint8)  # (classes, 3) RGB
        self.size: Size = self.metadata.size
        self.fit: Fit = self.metadata.fit if fit == 'auto' else fit
        if self.fit != 'tile' and overlap is not None:
            raise ValueError(f'an overlap is between tiles: leave it out with fit={self.fit!r}')
        self.overlap = min(self.size) // 4 if overlap is None else overlap
        if not 0 <= self.overlap < min(self.size):
            raise ValueError(f'tiles of {self.size[0]}x{self.size[1]} cannot overlap by {self.overlap} pixels')
        row = PRECISIONS[self.metadata.precision]
        if row.rest and device in ('auto', 'cpu') and not row.fast_on_this_cpu():
            warnings.warn(
                f'{path} computes in int8, for which this CPU has no instructions (VNNI or AMX): it may be slower than '
                'the float32 file',
                stacklevel=2,
            )
        self._warning = threading.Lock()  # held for good by the first image that is warned of
        fixed = self.metadata.batch
        if batch is not None and (batch < 1 or fixed not in (None, batch)):
            raise ValueError(f'{path} runs {"any number from 1" if fixed is None else fixed} at once, not {batch}')
        self.batch = batch or fixed or 1

    def __reduce__(self) -> tuple[Callable[[], Segmenter], tuple[()]]:
        """Pickle how it was opened; unpickled, it is opened anew."""
        path, backend, device, mode = self._open.args
        options = {'backend': backend, 'device': device, 'mode': mode, **self._open.keywords, **self._arguments}
        return functools.partial(type(self), path, **options), ()

    def _opened(self) -> Backend:
        """Return the model, as this process may use it.

        Runtimes start threads, which a fork does not copy: a model of the parent process would wait for them for ever.

        Raises:
            ValueError: the process was forked after the file was opened, and its runtime cannot open it once more.
        """
        if self._process != os.getpid():
            if self.backend != 'openvino':
                raise ValueError(
                    f'{self.path} was opened in {self.backend} before this process was forked, where it would wait for '
                    'ever: open it in each process, start processes by spawn, or use OpenVINO'
                )
            _OF_PARENTS.append(self._model)  # its end would wait for its threads, too
            self._model, self._process = self._open()[1], os.getpid()
        return self._model

    @overload
    def __call__(
        self, image: Source, *, out: Mask | None = None, return_confidence: Literal[False] = False
    ) -> Mask: ...

    @overload
    def __call__(
        self, image: Source, *, out: Mask | None = None, return_confidence: Literal[True]
    ) -> tuple[Mask, Confidence]: ...

    @overload
    def __call__(self, image: list[Source], *, return_confidence: Literal[False] = False) -> list[Mask]: ...

    @overload
    def __call__(self, image: list[Source], *, return_confidence: Literal[True]) -> list[tuple[Mask, Confidence]]: ...

    def __call__(
        self, image: Source | list[Source], *, out: Mask | None = None, return_confidence: bool = False
    ) -> Any:
        """Return the class indices (H, W) of an image at its own size, or those of each image of a list.

        They are uint8, above 256 classes uint16. `out` is an array that takes them instead of a new one. With
        `return_confidence` the result is (mask, confidence): the probability of each pixel's class, float32 (H, W),
        from 1 / classes to 1, which only files of logits tell. Beside the image, which may be a memory map, and the
        mask, which may be one through `out`, memory is that of one tile, unless `fit` resizes; of tiles of logits it is
        that of a row of them, 4 bytes * classes * height of a tile * width of the image.

        Raises:
            FileNotFoundError: an image is not there.
            ValueError: an image cannot be read, an array is not (H, W, 3) uint8, or the file tells no confidence.
        """
        self.check_confidence(return_confidence)
        if not isinstance(image, list):
            return next(self._run([self._load(image, return_confidence, out)])).result()
        if out is not None:
            raise ValueError('out takes the mask of one image, not those of a list')
        return [job.result() for job in self._run(self._load(source, return_confidence) for source in image)]

    @overload
    def stream(
        self,
        sources: Iterable[Source],
        *,
        on_error: Callable[[Any, Exception], None] | None = None,
        readers: int = 2,
        ahead: int = 2,
        return_confidence: Literal[False] = False,
    ) -> Generator[Segmented, None, None]: ...

    @overload
    def stream(
        self,
        sources: Iterable[Source],
        *,
        on_error: Callable[[Any, Exception], None] | None = None,
        readers: int = 2,
        ahead: int = 2,
        return_confidence: Literal[True],
    ) -> Generator[SegmentedWithConfidence, None, None]: ...

    def stream(
        self,
        sources: Iterable[Source],
        *,
        on_error: Callable[[Any, Exception], None] | None = None,
        readers: int = 2,
        ahead: int = 2,
        return_confidence: bool = False,
    ) -> Generator[Any, None, None]:
        """Yield (source, image, mask) for each source, in order, while the next ones are read and segmented.

        With `return_confidence` it is (source, image, mask, confidence), see `__call__`.

        `sources` may be endless, such as the frames of a camera. Files are read by `readers` threads, the network
        runs in another, and what is done with the results happens in the caller's meanwhile; `ahead` results of
        either step wait for the next, so about 2 * ahead + readers + 2 images are in memory. What cannot be read is
        given to `on_error(source, error)` and left out; without it the error is raised. Leaving the loop early ends
        the threads.
        """
        if min(readers, ahead) < 1:
            raise ValueError('a stream needs at least one reader and one image ahead')
        self.check_confidence(return_confidence)
        load = functools.partial(self._load, with_confidence=return_confidence)
        with (
            closing(ahead_of(ordered(load, sources, readers), ahead)) as loaded,
            closing(ahead_of(self._run(loaded), ahead)) as jobs,
        ):
            for job in jobs:
                if job.error is not None:
                    if on_error is None:
                        raise job.error
                    on_error(job.source, job.error)
                elif job.confidence is None:
                    yield Segmented(job.source, job.image, job.mask)
                else:
                    yield SegmentedWithConfidence(job.source, job.image, job.mask, job.confidence)

    def batches(self, sources: Iterable[Source]) -> Iterator[Array]:
        """Yield what the graph is given of images, (N, H, W, C) uint8: each as a whole, or its tiles.

        Raises:
            FileNotFoundError, ValueError: as the call does.
        """

        def pieces() -> Iterator[tuple[_Job, Any, Array]]:
            for job in map(self._load, sources):
                if isinstance(job, _Failure):
                    raise job.error
                for place, piece in job.cut():
                    yield job, place, piece

        for _, images in self._batches(pieces()):
            yield images

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

    def check_confidence(self, wanted: bool) -> None:
        """Refuse a confidence that is `wanted` of a file that tells none.

        Raises:
            ValueError: this is such a file.
        """
        if wanted and self.metadata.output != 'logits':
            raise ValueError(
                f'{self.path} returns classes, which do not tell how confident they are: '
                'export the model with --output logits'
            )

    def _load(self, source: Source, with_confidence: bool = False, out: Mask | None = None) -> _Job | _Failure:
        """Read one image and say how it goes through the graph."""
        try:
            channels = self.metadata.channels
            if channels != 3 and not isinstance(source, np.ndarray):
                raise ValueError(
                    f'this model takes arrays (H, W, {channels}) of uint8, and files are read as RGB: read {source} '
                    'yourself and pass the array'
                )
            preparation = self.metadata.preparation
            image = (
                source
                if isinstance(source, np.ndarray)
                else read_image(source, upright=preparation.upright, decoder=preparation.decoder)
            )
            if image.shape[2:] != (channels,) or image.dtype != np.uint8 or not image.size:
                order = ' in RGB' if channels == 3 else ''
                raise ValueError(
                    f'an image is an array (H, W, {channels}) of uint8{order}, not {image.shape} of {image.dtype}'
                )
            if isinstance(image, np.ma.MaskedArray):
                raise ValueError('an image of a masked array has pixels without a value: pass image.filled(0), or crop')
            shape = image.shape[:2]
            dtype = np.uint8 if len(self.classes) <= 256 else np.uint16
            if out is not None and (out.shape, out.dtype) != (shape, dtype):
                raise ValueError(f'out is {out.shape} of {out.dtype}, and the mask {shape} of {np.dtype(dtype)}')
            route = self._route(shape)
            mask = np.empty(shape, dtype) if out is None else out
            confidence = np.empty(shape, np.float32) if with_confidence else None
            return _Job(source, image, route, mask, confidence, route.count)
        except Exception as error:
            return _Failure(source, error)

    def _route(self, shape: Size) -> Route:
        """Return the way of an image of `shape` through the graph."""
        preparation = self.metadata.preparation
        route = functools.partial(
            Route,
            shape,
            self.size,
            interpolation=preparation.interpolation,
            colour=self.metadata.mean,
            align_corners=self.metadata.align_corners,
        )
        if self.fit == 'tile':
            return route(shape, (self.overlap, self.overlap), centred=True)
        if self.fit == 'resize':
            return route(fitted(shape, self.size))
        inside, overlap = preparation.resized(shape), (0, 0)
        if preparation.stride is not None:  # windows, of which any number covers an image
            overlap = (self.size[0] - preparation.stride[0], self.size[1] - preparation.stride[1])
        elif inside != self.size:
            if self._warning.acquire(blocking=False):
                warnings.warn(
                    f'images of {shape[0]}x{shape[1]} were tested at {inside[0]}x{inside[1]}, but {self.path} takes '
                    f'{self.size[0]}x{self.size[1]}, to which such images are shrunk or padded: masks are less exact. '
                    f'Export the model with --size {inside[0]}x{inside[1]} for them',
                    stacklevel=2,
                )
            if inside[0] > self.size[0] or inside[1] > self.size[1]:
                inside = fitted(inside, self.size)
        return route(inside, overlap)

    def _run(self, jobs: Iterable[_Job | _Failure]) -> Generator[_Job | _Failure, None, None]:
        """Yield the jobs in order, each when its mask is whole."""
        waiting: deque[_Job | _Failure] = deque()
        failure: list[Exception] = []

        def pieces() -> Iterator[tuple[Any, Any, Array]]:
            for job in until_error(jobs, failure):
                waiting.append(job)
                try:
                    for place, piece in job.cut():
                        yield job, place, piece
                except Exception as error:  # of this image alone: too little memory to resize it
                    job.error, job.missing = error, 0

        with closing(self._opened().map(self._batches(pieces()))) as results:
            for places, masks in results:
                self._check_result(masks)
                for (job, place), mask in zip(places, masks, strict=False):  # what filled up the batch has no place
                    if job.error is not None:
                        continue
                    try:
                        job.route.paste(place, mask, job.mask, job.confidence, self.metadata.threshold)
                        job.missing -= 1
                    except MemoryError as error:  # to resize the logits
                        job.error, job.missing = error, 0
                while waiting and not waiting[0].missing:
                    yield waiting.popleft()
        yield from waiting
        if failure:
            raise failure[0]

    def _check_result(self, masks: Array) -> None:
        """Refuse what a graph returns that does not do what it says, before it is written into any mask.

        Raises:
            FileError: it is of another shape or type, or has the index of a class without a name.
        """
        promised = self.metadata.result
        found = Port(str(masks.dtype), (self.metadata.batch and len(masks), *masks.shape[1:]))
        if found != promised:
            raise FileError(f'{self.path} returned {found}, and promises {promised}: export the model again')
        if self.metadata.output == 'classes' and masks.size and masks.max() >= len(self.classes):
            raise FileError(
                f'{self.path} returned class {masks.max()}, and names {len(self.classes)}: export the model again'
            )

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
