"""What a Segmenter adds to the bare graph, what its stream gains over a loop, and the memory of tiled images."""

from __future__ import annotations

import argparse
import itertools
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from ..cli import add_trust
from ..runtime.images import Array
from ..runtime.segmenter import Segmenter
from .machine import describe_machine
from .memory import peak_memory
from .timing import measure_latency


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `tools/benchmark.py runtime`."""
    parser.add_argument('model', help='what tools/export.py wrote')
    parser.add_argument('--backend', default='auto', help='openvino, onnxruntime or torch (default: auto)')
    parser.add_argument('--runs', type=int, default=20, help='counted runs of each candidate (default: 20)')
    parser.add_argument('--images', type=int, default=48, help='files that go through loop and stream (default: 48)')
    parser.add_argument(
        '--squares', type=int, nargs='*', default=[2000, 8000, 20000], metavar='PIXELS',
        help='sides of the images whose memory is measured (default: 2000 8000 20000)',
    )  # fmt: skip
    add_trust(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Measure what the command line asks for."""
    segmenter = Segmenter(args.model, backend=args.backend, trust=args.trust)
    facts = segmenter.metadata
    with tempfile.TemporaryDirectory() as folder:
        return {
            'model': Path(args.model).name,
            'backend': segmenter.backend,
            'precision': facts.precision,
            'input': [1, *facts.size, 3],
            'latency': _latency(segmenter, Path(folder), args.runs),
            'images_per_second': _streams(args.model, segmenter, Path(folder), args.images) if args.images else {},
            'memory': [_memory(args.model, segmenter.backend, side) for side in args.squares],
            **describe_machine('openvino', 'onnxruntime', 'numpy', 'pillow'),
        }


def _scene(height: int, width: int) -> Array:
    """Return an image that compresses as photographs do: smooth, with noise."""
    generator = np.random.default_rng(0)
    coarse = generator.integers(0, 256, (height // 32 + 2, width // 32 + 2, 3), np.uint8)
    smooth = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
    return cv2.add(smooth, generator.integers(0, 12, (height, width, 3), np.uint8))


def _latency(segmenter: Segmenter, folder: Path, runs: int) -> dict[str, Any]:
    """Time the runtime's own call on a ready batch, the Segmenter on an array and on a file."""
    image = _scene(*segmenter.size)
    model: Any = segmenter._model
    batch = np.ascontiguousarray(np.broadcast_to(image, (segmenter.batch, *image.shape)))
    bare: Callable[[], object]
    if segmenter.backend == 'openvino':
        request = model._compiled.create_infer_request()
        bare = lambda: request.infer([batch], share_inputs=True, share_outputs=True)  # noqa: E731
    else:
        bare = lambda: model.infer(batch)  # noqa: E731
    candidates = {'bare graph': bare, 'Segmenter(array)': lambda: segmenter(image)}
    for suffix in ('jpg', 'png'):
        path = folder / f'scene.{suffix}'
        Image.fromarray(image).save(path)
        candidates[f'Segmenter({suffix} file)'] = lambda path=path: segmenter(path)  # type: ignore[misc]
    return {name: asdict(value) for name, value in measure_latency(candidates, runs=runs).items()}


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


def _memory(model: str, backend: str, side: int) -> dict[str, Any]:
    """Return what segmenting a square takes beside the image and the mask, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context('spawn')) as pool:
        return pool.submit(_segment_square, model, backend, side).result()


def _segment_square(model: str, backend: str, side: int) -> dict[str, Any]:
    segmenter = Segmenter(model, backend=backend, trust=True)  # `run` has opened it before
    image, mask = np.empty((side, side, 3), np.uint8), np.ones((side, side), np.uint8)
    scene = _scene(512, 1024)
    for top, left in itertools.product(range(0, side, 512), range(0, side, 1024)):
        part = image[top : top + 512, left : left + 1024]
        part[:] = scene[: part.shape[0], : part.shape[1]]
    segmenter(scene)  # what the runtime allocates at its first run is no matter of the image
    start = time.perf_counter()
    _, growth = peak_memory(lambda: segmenter(image, out=mask))
    return {
        'side': side,
        'seconds': time.perf_counter() - start,
        'image_and_mask_mb': (image.nbytes + mask.nbytes) / 2**20,
        'growth_mb': growth,
    }


def table(result: dict[str, Any]) -> str:
    """Return the result as lines of text."""
    latency = result['latency']
    bare = latency['bare graph']['p50_ms']
    lines = [f'{"":<24}{"p50 ms":>9}{"p95 ms":>9}{"ratio":>7}']
    for name, t in latency.items():
        lines.append(f'{name:<24}{t["p50_ms"]:>9.2f}{t["p95_ms"]:>9.2f}{t["p50_ms"] / bare:>7.3f}')
    lines += [f'{name:<24}{value:>9.1f} images/s' for name, value in result['images_per_second'].items()]
    for entry in result['memory']:
        name, growth = f'{entry["side"]} x {entry["side"]}', entry['growth_mb']
        more = f'{"unknown" if growth is None else round(growth, 1):>9} MB'
        lines.append(
            f'{name:<24}{more} beside {entry["image_and_mask_mb"]:.0f} of image and mask, {entry["seconds"]:.1f} s'
        )
    size = 'x'.join(map(str, result['input']))
    return '\n'.join([*lines, f'{result["backend"]}, {result["precision"]}, {size}; {result["device"]}'])
