"""A Segmenter with the bare graph, its stream with a loop, and the memory that tiled images take."""

from __future__ import annotations

import argparse
import functools
import itertools
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ..cli import add_trust
from ..runtime.backends import BACKENDS
from ..runtime.images import Array
from ..runtime.segmenter import Segmenter
from ..timing import measure_latency
from .memory import peak_memory
from .report import THROUGHPUT, Row, timed
from .runtimes import runtimes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('model', help='what tools/export.py wrote')
    parser.add_argument(
        '--backend', choices=['auto', *BACKENDS], default='auto', help='what runs the file (default: auto)'
    )
    parser.add_argument(
        '--runs', type=int, default=20, metavar='N', help='counted runs of each candidate (default: 20)'
    )
    parser.add_argument(
        '--samples', type=int, default=48, metavar='N', help='files that go through loop and stream (default: 48)'
    )
    parser.add_argument(
        '--squares', type=int, nargs='*', default=[2000, 8000, 20000], metavar='PIXELS',
        help='sides of the images whose memory is measured (default: 2000 8000 20000)',
    )  # fmt: skip
    add_trust(parser)


def run(args: argparse.Namespace) -> list[Row]:
    """Measure what the command line asks for."""
    segmenter = Segmenter(args.model, backend=args.backend, trust=args.trust)
    [name] = [
        runtime.name
        for runtime in runtimes().values()
        if (runtime.engine, runtime.precision) == (segmenter.backend, segmenter.metadata.precision)
    ]
    what, size = Path(args.model).name, 'x'.join(map(str, segmenter.size))
    facts: dict[str, Any] = {'size': size, 'batch': segmenter.batch}
    with tempfile.TemporaryDirectory() as folder:
        latencies = measure_latency(_calls(segmenter, Path(folder)), runs=args.runs)
        rates = _streams(args.model, segmenter, Path(folder), args.samples) if args.samples else {}
    rows = [timed(latency, what, variant, name, **facts) for variant, latency in latencies.items()]
    bare = rows[0].value or 1
    rows += [row.derived('time of the bare graph', row.value / bare, 'x') for row in rows[1:] if row.value]
    rows += [Row(what, variant, name, THROUGHPUT, rate, 'images/s', facts) for variant, rate in rates.items()]
    for side in args.squares:
        rows += _square(what, name, args.model, segmenter.backend, side)
    return rows


def _scene(height: int, width: int) -> Array:
    """Return an image that compresses as photographs do: smooth, with noise."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (height // 32 + 2, width // 32 + 2, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.add(smooth, generator.integers(0, 12, (height, width, 3), np.uint8))


def _calls(segmenter: Segmenter, folder: Path) -> dict[str, Callable[[], object]]:
    """Return the runtime's own call on a ready batch, and the Segmenter's on an array and on files."""
    image = _scene(*segmenter.size)
    model: Any = segmenter._model
    batch = np.ascontiguousarray(np.broadcast_to(image, (segmenter.batch, *image.shape)))
    if segmenter.backend == 'openvino':
        request = model._compiled.create_infer_request()
        bare = functools.partial(request.infer, [batch], share_inputs=True, share_outputs=True)
    else:
        bare = functools.partial(model.infer, batch)
    calls: dict[str, Callable[[], object]] = {
        'bare graph': bare,
        'Segmenter, array': functools.partial(segmenter, image),
    }
    for suffix in ('jpg', 'png'):
        path = folder / f'scene.{suffix}'
        Image.fromarray(image).save(path)
        calls[f'Segmenter, {suffix} file'] = functools.partial(segmenter, path)
    return calls


def _streams(model: str, segmenter: Segmenter, folder: Path, number: int) -> dict[str, float]:
    """Read PNG files, segment them, write PNG files: in a loop, and in streams."""
    path = folder / 'scene.png'

    def write(mask: Any) -> None:
        Image.fromarray(mask).save(folder / 'mask.png', compress_level=1)

    def loop() -> None:
        for _ in range(number):
            write(segmenter(path))

    def stream(segmenter: Segmenter) -> None:
        for result in segmenter.stream([path] * number):
            write(result.mask)

    candidates: dict[str, Callable[[], None]] = {'loop': loop, 'stream': lambda: stream(segmenter)}
    if segmenter.backend == 'openvino':
        throughput = Segmenter(model, backend='openvino', mode='throughput')
        candidates['stream, throughput mode'] = lambda: stream(throughput)
    seconds = measure_latency(candidates, runs=3, warmup=1)
    return {name: number / (value.p50_ms / 1e3) for name, value in seconds.items()}


def _square(what: str, runtime: str, model: str, backend: str, side: int) -> list[Row]:
    """Return time and memory of segmenting a square image in tiles, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        seconds, given, growth = pool.submit(_segment_square, model, backend, side).result()
    figures = [('time', seconds, 's'), ('image and mask', given, 'MiB'), ('memory beside them', growth, 'MiB')]
    facts = {'size': f'{side}x{side}', 'note': 'this system does not report it' if growth is None else 'in tiles'}
    return [Row(what, f'square of {side}x{side}', runtime, *figure, facts) for figure in figures]


def _segment_square(model: str, backend: str, side: int) -> tuple[float, float, float | None]:
    segmenter = Segmenter(model, backend=backend, trust=True)  # `run` has opened it before
    image, mask = np.empty((side, side, 3), np.uint8), np.ones((side, side), np.uint8)
    scene = _scene(512, 1024)
    for top, left in itertools.product(range(0, side, 512), range(0, side, 1024)):
        part = image[top : top + 512, left : left + 1024]
        part[:] = scene[: part.shape[0], : part.shape[1]]
    segmenter(scene)  # at its first run the runtime allocates memory that does not depend on the image
    start = time.perf_counter()
    _, growth = peak_memory(lambda: segmenter(image, out=mask))
    return time.perf_counter() - start, (image.nbytes + mask.nbytes) / 2**20, growth
