"""One inference graph in every runtime and precision that this machine has, as callables to be timed."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor

from ..cli import image_size
from ..deploy.export import DTYPES, TARGETS
from ..runtime.backends import open_model
from ..runtime.metadata import ModelMetadata, Preparation
from ..runtime.precision import PRECISIONS
from .memory import peak_memory

Call = Callable[[], object]


@dataclass(frozen=True)
class Runtime:
    """What runs a graph: eager torch, compiled torch, or a runtime that takes an exported file."""

    name: str
    engine: str  # 'torch', 'compile', or a backend of deploy.backends
    precision: str
    to: str = ''  # the kind of file that the backend takes

    @property
    def missing(self) -> str:
        """Why it cannot run here, or nothing."""
        if not (torch.cuda.is_available() or PRECISIONS[self.precision].fast_on_this_cpu()):
            return f'this CPU has no {self.precision} instructions'
        if (
            self.engine == 'compile'
            and not torch.cuda.is_available()
            and not shutil.which(os.environ.get('CXX', 'g++'))
        ):
            return 'torch.compile needs a C++ compiler'
        absent = [package for package in (TARGETS[self.to].packages if self.to else ()) if not _there(package)]
        return f'{", ".join(absent)} not installed' if absent else ''


def _there(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


# What a runtime is called -> its engine and the kind of file that it takes.
ENGINES = {
    'torch': ('torch', ''),
    'torch.compile': ('compile', ''),
    'ONNX Runtime': ('onnxruntime', 'onnx'),
    'OpenVINO': ('openvino', 'openvino'),
}


def runtimes() -> list[Runtime]:
    """Return all that make sense on this device, whether installed or not."""
    return [
        Runtime(f'{label} {name}', engine, name, to)
        for label, (engine, to) in ENGINES.items()
        if not (engine == 'openvino' and torch.cuda.is_available())  # it would run beside it, on the CPU
        for name, precision in PRECISIONS.items()
        if (engine if to else 'torch') in precision.backends
    ]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options that the comparisons of runtimes share."""
    parser.add_argument('--size', type=image_size, default=(512, 1024), metavar='HxW', help='input size (512x1024)')
    parser.add_argument('--batch', type=int, default=1, help='images at once (default: 1)')
    parser.add_argument('--runs', type=int, default=10, help='counted runs of each candidate (default: 10)')
    parser.add_argument(
        '--runtimes',
        nargs='+',
        metavar='NAME',
        help=f'some of: {", ".join(repr(r.name) for r in runtimes())} (default: all that are installed)',
    )


def chosen(names: Sequence[str] | None) -> tuple[list[Runtime], dict[str, str]]:
    """Return the runtimes of these names, by default all, as far as they can run; and why the others cannot.

    Raises:
        ValueError: there is none of a name, or none is left.
    """
    known = {runtime.name: runtime for runtime in runtimes()}
    if unknown := [name for name in names or () if name not in known]:
        raise ValueError(f'there is no runtime {unknown[0]!r} here: choose from {", ".join(known)}')
    wanted = [known[name] for name in (names or known)]
    missing = {runtime.name: runtime.missing for runtime in wanted if runtime.missing}
    if len(missing) == len(wanted):
        raise ValueError(f'none of these runtimes is here: {"; ".join(map(": ".join, missing.items()))}')
    return [runtime for runtime in wanted if not runtime.missing], missing


def check_input(size: tuple[int, int], batch: int, runs: int) -> None:
    """Check that there is something to time.

    Raises:
        ValueError: there is not.
    """
    if min(batch, *size, runs) < 1:
        raise ValueError(f'there is nothing to time at batch {batch}, size {size[0]}x{size[1]} and {runs} runs')


def random_images(size: tuple[int, int], batch: int) -> Tensor:
    """Return uint8 images (batch, H, W, 3) on the device that is timed."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    return torch.randint(0, 256, (batch, *size, 3), dtype=torch.uint8, device=device)


def _metadata(images: Tensor, precision: str) -> ModelMetadata:
    """Describe a graph that only a benchmark reads."""
    return ModelMetadata(
        classes=('any',),
        palette=((0, 0, 0),),
        batch=images.shape[0],
        size=(images.shape[1], images.shape[2]),
        output='classes',
        precision=precision,
        threshold=None,
        preparation=Preparation(),
        fit='test',
        source={'file': '', 'sha256': ''},
        versions={},
        created='',
    )


@dataclass(frozen=True)
class Candidate:
    """A graph in a runtime; `make` makes it anew each time, because runtimes convert it in place."""

    make: Callable[[], Any]
    runtime: Runtime


def write_files(
    candidates: Mapping[str, Candidate], images: Tensor, folder: Path
) -> tuple[dict[str, Path], dict[str, str]]:
    """Write the files of those candidates whose runtime takes one into `folder`, for `images` (N, H, W, 3).

    Returns their paths and, of candidates whose runtime cannot take their network, why: another network may still run.
    """
    paths, failed = {}, {}
    written = track(candidates.items(), 'exporting', console=Console(stderr=True), transient=True)
    for index, (name, candidate) in enumerate(written):
        if runtime := candidate.runtime if candidate.runtime.to else None:
            target = TARGETS[runtime.to]
            path = folder / f'{index}{target.suffix}'
            try:
                target.write(candidate.make(), path, _metadata(images, runtime.precision))
            except Exception as error:  # each exporter has its own
                failed[name] = (' '.join(str(error).split()) or type(error).__name__)[:200]
            else:
                paths[name] = path
    return paths, failed


def open_all(
    candidates: Mapping[str, Candidate], images: Tensor, paths: Mapping[str, Path]
) -> tuple[dict[str, Call], dict[str, float | None]]:
    """Open each candidate and run it once; return the calls, synchronous but for CUDA, and their peak memory."""
    calls, memory = {}, {}

    def first(candidate: Candidate, path: Path | None) -> Call:
        call = _from_file(path, candidate.runtime, images) if path else _in_torch(candidate, images)
        call()
        return call

    opened = track(candidates.items(), 'opening', console=Console(stderr=True), transient=True)
    for name, candidate in opened:
        calls[name], memory[name] = peak_memory(functools.partial(first, candidate, paths.get(name)))
    return calls, memory


def _in_torch(candidate: Candidate, images: Tensor) -> Call:
    graph = candidate.make().cast(DTYPES[candidate.runtime.precision])
    graph = graph.to(images.device).to(memory_format=torch.channels_last)
    run = torch.compile(graph) if candidate.runtime.engine == 'compile' else graph

    def call() -> object:
        with torch.inference_mode():
            return run(images)

    return call


def _from_file(path: Path, runtime: Runtime, images: Tensor) -> Call:
    _, model = open_model(path, runtime.engine, 'auto', 'latency', trust=True)
    array = images.cpu().numpy()
    return lambda: [result for _, result in model.map([(None, array)])]
