"""Graphs in every runtime and precision that this machine has: opened, measured and reported in one way."""

from __future__ import annotations

import argparse
import functools
import importlib.util
import os
import shutil
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..cli import image_size
from ..deploy.export import DTYPES, TARGETS
from ..deploy.graph import choose_for_int8
from ..deploy.quantize import quantize_file
from ..runtime.backends import open_model
from ..runtime.metadata import ModelMetadata, Preparation
from ..runtime.precision import PRECISIONS
from ..timing import measure_latency
from .memory import peak_memory
from .report import PEAK_MEMORY, Row, timed

# What a runtime is called -> its engine, which is torch, compiled torch or a backend, and the kind of file it takes.
ENGINES = {
    'torch': ('torch', ''),
    'torch.compile': ('compile', ''),
    'ONNX Runtime': ('onnxruntime', 'onnx'),
    'OpenVINO': ('openvino', 'openvino'),
}


@dataclass(frozen=True)
class Runtime:
    """What runs a graph."""

    name: str
    engine: str
    precision: str
    to: str = ''  # the kind of file that the backend takes

    @property
    def missing(self) -> str:
        """Why it cannot run here, or nothing."""
        on_gpu = torch.cuda.is_available()
        if not (on_gpu or PRECISIONS[self.precision].fast_on_this_cpu()):
            return f'this CPU has no {self.precision} instructions'
        if self.engine == 'compile' and not on_gpu and not shutil.which(os.environ.get('CXX', 'g++')):
            return 'torch.compile needs a C++ compiler'
        packages = (*(TARGETS[self.to].packages if self.to else ()), *(['nncf'] if self.precision == 'int8' else []))
        absent = [package for package in packages if not _installed(package)]
        return f'{", ".join(absent)} not installed' if absent else ''


def _installed(package: str) -> bool:
    return importlib.util.find_spec(package) is not None


def runtimes() -> dict[str, Runtime]:
    """Return all that make sense on this device by name, whether installed or not."""
    return {
        f'{label} {name}': Runtime(f'{label} {name}', engine, name, to)
        for label, (engine, to) in ENGINES.items()
        if not (engine == 'openvino' and torch.cuda.is_available())  # it would run beside it, on the CPU
        for name, precision in PRECISIONS.items()
        if (engine if to else 'torch') in precision.backends
    }


def add_arguments(
    parser: argparse.ArgumentParser, *, size: tuple[int, int] = (512, 1024), batch: int = 1, runs: int = 10
) -> None:
    """Declare the options that the comparisons of runtimes share, with their defaults."""
    shape = f'{size[0]}x{size[1]}'
    parser.add_argument(
        '--size', type=image_size, default=size, metavar='HEIGHTxWIDTH', help=f'size of the images (default: {shape})'
    )
    parser.add_argument('--batch', type=int, default=batch, metavar='N', help=f'images at once (default: {batch})')
    parser.add_argument(
        '--runs', type=int, default=runs, metavar='N', help=f'counted runs of each candidate (default: {runs})'
    )
    names = ', '.join(map(repr, runtimes()))
    parser.add_argument(
        '--runtimes', nargs='+', metavar='NAME', help=f'some of: {names} (default: all that run on this machine)'
    )


def chosen(args: argparse.Namespace) -> tuple[list[Runtime], Tensor]:
    """Return the runtimes that the command line names, by default all, and random images (N, H, W, 3) in uint8.

    Raises:
        ValueError: there is none of a name, or none of them runs here, or there is nothing to time.
    """
    if min(args.batch, *args.size, args.runs) < 1:
        size = 'x'.join(map(str, args.size))
        raise ValueError(f'there is nothing to time at batch {args.batch}, size {size} and {args.runs} runs')
    known = runtimes()
    if unknown := [name for name in args.runtimes or () if name not in known]:
        raise ValueError(f'there is no runtime {unknown[0]!r} here: choose from {", ".join(known)}')
    wanted = [known[name] for name in (args.runtimes or known)]
    missing = [f'{runtime.name}: {runtime.missing}' for runtime in wanted if runtime.missing]
    if len(missing) == len(wanted):
        raise ValueError(f'none of these runtimes runs here: {"; ".join(missing)}')
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    return wanted, torch.randint(0, 256, (args.batch, *args.size, 3), dtype=torch.uint8, device=device)


class ImageGraph(nn.Module):
    """A network of normalised images as a graph: uint8 images (N, H, W, 3) -> what it returns, or the last of
    several."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def cast(self, dtype: torch.dtype) -> ImageGraph:
        """Convert the parameters, in place; return self."""
        return self.to(dtype)

    def forward(self, images: Tensor) -> Tensor:  # (N, H, W, 3) -> (N, ...)
        x = (images.to(torch.float32).permute(0, 3, 1, 2) - 116) / 57
        result = self.network(x.to(next(self.parameters()).dtype))
        return result[-1] if isinstance(result, tuple) else result


@dataclass(frozen=True)
class Candidate:
    """A graph in a runtime; `make` makes it anew each time, because runtimes convert it in place."""

    what: str
    variant: str
    runtime: Runtime
    make: Callable[[], Any]

    def file(self, folder: Path) -> Path | None:
        """Return the path of its file in `folder`, if its runtime takes one."""
        to = self.runtime.to
        return folder / f'{self.what} {self.variant} {self.runtime.name}{TARGETS[to].suffix}' if to else None


def measure(candidates: Sequence[Candidate], images: Tensor, runs: int, folder: Path | None = None) -> list[Row]:
    """Time the candidates on `images` (N, H, W, 3) in turn; return latencies, memory, and the work of each graph.

    What cannot run is a row without a value. Files are written to `folder`, or to one that is removed at the end.
    """
    if folder is None:
        with tempfile.TemporaryDirectory(prefix='benchmark-') as made:
            return measure(candidates, images, runs, Path(made))
    batch, height, width, _ = images.shape
    facts: dict[str, Any] = {'size': f'{height}x{width}', 'batch': batch}
    calls, memory, failed = {}, [], []
    for candidate in track(candidates, 'opening', console=Console(stderr=True), transient=True):
        labels = candidate.what, candidate.variant, candidate.runtime.name
        try:
            if candidate.runtime.missing:
                raise RuntimeError(candidate.runtime.missing)
            path = candidate.file(folder)
            if path:
                _write(candidate, path, images)
            calls[candidate], peak = peak_memory(functools.partial(_opened, candidate, path, images))
        except Exception as error:  # each exporter and runtime has its own; another network may still run
            why = (' '.join(str(error).split()) or type(error).__name__)[:200]
            failed.append(Row(*labels, PEAK_MEMORY, None, 'MiB', facts | {'note': why}))
        else:
            if peak is not None:
                memory.append(Row(*labels, PEAK_MEMORY, peak, 'MiB', facts))
    if not calls:
        raise ValueError(f'nothing could be measured: {failed[0].runtime}: {failed[0].extra["note"]}')
    rows = [
        timed(latency, key.what, key.variant, key.runtime.name, **facts)
        for key, latency in measure_latency(calls, runs=runs).items()
    ]
    makers = {(candidate.what, candidate.variant): candidate.make for candidate in candidates}
    work = [Row(*key, '', 'work', operations(make(), images) / 1e9, 'GFLOP', facts) for key, make in makers.items()]
    return [*rows, *memory, *work, *failed]


def operations(graph: nn.Module, images: Tensor) -> int:
    """Count multiplications and additions of convolutions and matrix products, each as one operation.

    Of an inference graph up to its scores: what turns them into a class map depends on their values.
    """
    graph = graph.to('meta')  # shapes are enough
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        getattr(graph, 'scores', graph)(images.to('meta'))
    return counter.get_total_flops()


def _write(candidate: Candidate, path: Path, images: Tensor) -> None:
    precision = candidate.runtime.precision
    target, quantized = TARGETS[candidate.runtime.to], precision == 'int8'
    graph = candidate.make()
    target.write(
        choose_for_int8(graph) if quantized else graph, path, _metadata(images, 'fp32' if quantized else precision)
    )
    if quantized:
        quantize_file(path, path, [images.cpu().numpy()])  # noise is enough to time its arithmetic


def _metadata(images: Tensor, precision: str) -> ModelMetadata:
    """Describe a graph that only a benchmark reads."""
    return ModelMetadata(
        classes=tuple(map(str, range(256))),  # any
        palette=((0, 0, 0),) * 256,
        batch=images.shape[0],
        size=(images.shape[1], images.shape[2]),
        output='classes',
        precision=precision,
        threshold=None,
        align_corners=False,
        preparation=Preparation(),
        fit='test',
        source={'file': '', 'sha256': ''},
        versions={},
        created='',
    )


def _opened(candidate: Candidate, path: Path | None, images: Tensor) -> Callable[[], object]:
    """Return a call of the candidate, synchronous but for CUDA, after it ran once."""
    runtime = candidate.runtime
    if path:
        _, model = open_model(path, runtime.engine, 'auto', 'latency', trust=True, whole=False)
        array = images.cpu().numpy()
        call: Callable[[], object] = lambda: [result for _, result in model.map([(None, array)])]  # noqa: E731
    else:
        graph = candidate.make().cast(DTYPES[runtime.precision])
        graph = graph.to(images.device).to(memory_format=torch.channels_last)
        run = torch.compile(graph) if runtime.engine == 'compile' else graph
        call = torch.inference_mode()(functools.partial(run, images))
    call()
    return call
