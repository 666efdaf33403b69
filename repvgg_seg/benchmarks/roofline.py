"""Which share of the machine's peak a graph reaches: its arithmetic over its latency, over that of a matrix product.

The peak is measured in turn with the graphs, by torch and by OpenVINO, and the faster of the two counts.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..apps.config import add_cfg_options, build_segmentor, load_config
from ..deploy.convert import convert_segmentor, switch_to_deploy
from ..deploy.export import DTYPES
from ..deploy.graph import InferenceGraph, fold_norms
from ..models.trunk import RepVGG
from ..models.variants import VARIANTS
from ..runtime.backends import openvino_core
from ..runtime.precision import PRECISIONS
from . import runtimes
from .latency import PACKAGES
from .machine import GEMM_SIZE, describe_machine, gemm_calls, gemm_rate
from .plots import bar_chart
from .runtimes import Call, Candidate
from .timing import measure_latency


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `tools/benchmark.py roofline`."""
    parser.add_argument(
        'models', nargs='+', metavar='MODEL', help='configs of segmentors, or full names such as RepVGG-A0: its trunk'
    )
    add_cfg_options(parser)
    runtimes.add_arguments(parser)


class TrunkGraph(nn.Module):
    """A deployed trunk alone: uint8 images (N, H, W, 3) -> its last map (N, C, h, w)."""

    def __init__(self, arch: str) -> None:
        super().__init__()
        self.trunk = switch_to_deploy(RepVGG(arch, out_indices=(3,)))

    def cast(self, dtype: torch.dtype) -> TrunkGraph:
        """Convert the parameters, in place; return self."""
        return self.to(dtype)

    def forward(self, images: Tensor) -> Tensor:  # (N, H, W, 3) -> (N, C, h, w)
        x = (images.to(torch.float32).permute(0, 3, 1, 2) - 116) / 57
        return self.trunk(x.to(next(self.parameters()).dtype))[-1]


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time what the command line asks for, and the matrix products, in turn.

    Raises:
        FileNotFoundError: a config is not there.
        ValueError: a model or a runtime is unknown, or there is nothing to time.
    """
    runtimes.check_input(args.size, args.batch, args.runs)
    chosen, missing = runtimes.chosen(args.runtimes)
    images = runtimes.random_images(args.size, args.batch)
    makers = {Path(model).stem: _maker(model, args.cfg_options) for model in args.models}
    counted = {name: operations(make(), images) for name, make in makers.items()}
    candidates = {
        f'{name} | {runtime.name}': Candidate(make, runtime) for name, make in makers.items() for runtime in chosen
    }
    precisions: list[str] = sorted({runtime.precision for runtime in chosen})
    openvino = 'openvino' in {runtime.engine for runtime in chosen}
    with tempfile.TemporaryDirectory(prefix='benchmark-') as folder:
        paths, failed = runtimes.write_files(candidates, images, Path(folder))
        candidates = {name: candidate for name, candidate in candidates.items() if name not in failed}
        calls, memory = runtimes.open_all(candidates, images, paths)
        references = products(precisions, openvino)
        # In turn with the graphs, since a machine that drifts slows both alike.
        latencies = measure_latency(calls | {' '.join(key): call for key, call in references.items()}, runs=args.runs)
    peaks: dict[str, dict[str, float]] = {p: {} for p in precisions}
    for precision, engine in references:
        peaks[precision][engine] = gemm_rate(latencies[f'{precision} {engine}'])
    best = {p: max(rates.values()) for p, rates in peaks.items()}
    graphs = []
    for key, candidate in candidates.items():
        name, latency = key.partition(' | ')[0], latencies[key]
        rate = counted[name] / latency.p50_ms / 1e6
        graphs.append(
            {
                'model': name,
                'runtime': candidate.runtime.name,
                'gflop': counted[name] / 1e9,
                'p50_ms': latency.p50_ms,
                'min_ms': latency.min_ms,
                'gflop_per_s': rate,
                'share_of_peak': rate / best[candidate.runtime.precision],
                'peak_memory_mib': memory[key],
            }
        )
    return {
        'input': list(images.shape),
        'options': args.cfg_options or {},
        'peak_gflop_per_s': peaks,
        'graphs': graphs,
        'not_measured': missing | failed,
        **describe_machine(*PACKAGES),
    }


def _maker(model: str, options: dict[str, Any] | None) -> Callable[[], Any]:
    if model in VARIANTS:
        return functools.partial(TrunkGraph, model)
    if not model.endswith('.py'):
        raise ValueError(f'{model!r} is neither a config nor one of {", ".join(VARIANTS)}')
    converted = convert_segmentor(build_segmentor(load_config(model, options)))
    return lambda: InferenceGraph(fold_norms(converted))


def operations(graph: nn.Module, images: Tensor) -> int:
    """Count multiplications and additions of convolutions and matrix products, each as one operation."""
    with torch.inference_mode(), FlopCounterMode(display=False) as counter:
        graph.to('meta')(images.to('meta'))  # shapes are enough
    return counter.get_total_flops()


def products(precisions: list[str], openvino: bool) -> dict[tuple[str, str], Call]:
    """Return calls that multiply square matrices, in torch and, if asked for, in OpenVINO."""
    by_torch = gemm_calls([DTYPES[p] for p in precisions])
    calls: dict[tuple[str, str], Call] = {(p, 'torch'): by_torch[DTYPES[p]] for p in precisions}
    if openvino:
        calls |= {(p, 'openvino'): _openvino_product(p) for p in precisions}
    return calls


def _openvino_product(precision: str) -> Call:
    """Return a call that multiplies two square matrices in OpenVINO, one of them a constant like a weight."""
    import openvino
    from openvino import opset13 as ops

    left = ops.parameter([GEMM_SIZE] * 2, np.float32)
    right = ops.constant(np.random.default_rng(0).standard_normal((GEMM_SIZE, GEMM_SIZE), np.float32))
    model = openvino.Model([ops.matmul(left, right, False, False)], [left])
    compiled = openvino_core().compile_model(
        model, 'CPU', {'INFERENCE_PRECISION_HINT': PRECISIONS[precision].openvino, 'PERFORMANCE_HINT': 'LATENCY'}
    )
    request = compiled.create_infer_request()
    matrix = np.random.default_rng(1).standard_normal((GEMM_SIZE, GEMM_SIZE), np.float32)
    return lambda: request.infer([matrix], share_inputs=True, share_outputs=True)


def table(result: dict[str, Any]) -> str:
    """Return the result as lines of text."""
    lines = [f'{"model":<34}{"runtime":<22}{"GFLOP":>8}{"p50 ms":>9}{"GFLOP/s":>9}{"of peak":>9}']
    for g in result['graphs']:
        lines.append(
            f'{g["model"]:<34}{g["runtime"]:<22}{g["gflop"]:>8.1f}{g["p50_ms"]:>9.1f}{g["gflop_per_s"]:>9.0f}'
            f'{g["share_of_peak"]:>9.1%}'
        )
    for precision, p in result['peak_gflop_per_s'].items():
        measured = ', '.join(f'{name} {value:.0f}' for name, value in p.items())
        lines.append(f'peak {precision}: {max(p.values()):.0f} GFLOP/s (products of {GEMM_SIZE}: {measured})')
    lines += [f'not measured: {name} ({why})' for name, why in result['not_measured'].items()]
    size = 'x'.join(str(n) for n in result['input'])
    return '\n'.join([*lines, f'input {size}, {result["device"]}, {result["threads"]} threads'])


def plot(result: dict[str, Any], path: str) -> None:
    """Draw the shares."""
    groups: dict[str, dict[str, float]] = {}
    for g in result['graphs']:
        groups.setdefault(g['model'], {})[g['runtime']] = 100 * g['share_of_peak']
    title = f'{"x".join(map(str, result["input"][1:3]))}, {result["device"]}'
    bar_chart(groups, path, title=title, unit='share of the measured GEMM peak, %')
