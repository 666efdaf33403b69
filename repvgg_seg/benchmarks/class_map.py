"""The class map of small logits: by enlarging them, and without; see models/class_map.py.

Logits are random fields as smooth as a trained network's, with boundaries in about 15 % of the cells at stride 8, and
for the worst case noise, with boundaries everywhere.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..cli import image_size
from ..models.class_map import class_map
from ..models.folding import resize
from ..runtime.backends import openvino_core
from .machine import describe_machine
from .memory import peak_memory
from .timing import measure_latency

Call = Callable[[Tensor], Any]
COARSE = 192  # pixels between the nodes of the smooth fields


class Tail(nn.Module):
    """What follows the network in an inference graph, or what followed it before."""

    def __init__(self, size: tuple[int, int], dense: bool) -> None:
        super().__init__()
        self.size, self.dense = size, dense

    def forward(self, logits: Tensor) -> Tensor:  # (N, C, h, w) -> (N, H, W)
        if self.dense:
            return resize(logits, self.size, False).argmax(1).to(torch.uint8)
        return class_map(logits, self.size)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `tools/benchmark.py class-map`."""
    parser.add_argument('--size', type=image_size, default=(512, 1024), metavar='HxW', help='of the map (512x1024)')
    parser.add_argument('--stride', type=int, default=8, help='pixels between two logits (default: 8)')
    parser.add_argument('--classes', type=int, default=19, help='number of classes, up to 256 (default: 19)')
    parser.add_argument('--runs', type=int, default=10, help='counted runs of each candidate (default: 10)')
    parser.add_argument(
        '--runtimes', nargs='+', choices=OPENERS, default=list(OPENERS), help=f'some of: {", ".join(OPENERS)}'
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time both ways in each runtime, in float32, and count the pixels that differ."""
    small = tuple(-(-n // args.stride) for n in args.size)
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(1, args.classes, *(n // COARSE + 2 for n in args.size), generator=generator)
    noise = torch.randn(1, args.classes, *small, generator=generator)
    smooth = 4 * F.interpolate(coarse, small, mode='bicubic', align_corners=True) + 0.05 * noise
    rows = []
    for runtime in args.runtimes:
        for kind, logits in {'smooth': smooth, 'noise': noise}.items():
            calls, masks, memory = {}, {}, {}
            for way in ('enlarged', 'class map'):  # opened anew, or memory would still be that of other logits
                call = OPENERS[runtime](Tail(args.size, way == 'enlarged').eval(), logits)
                masks[way], memory[way] = peak_memory(lambda call=call, logits=logits: np.array(call(logits)))
                calls[way] = lambda call=call, logits=logits: call(logits)
            rows += [
                {
                    'runtime': runtime,
                    'logits': kind,
                    'boundary_cells': _boundary_cells(logits),
                    'way': way,
                    **asdict(latency),
                    'peak_memory_mib': memory[way],
                    'pixels_different': int((masks[way] != masks['enlarged']).sum()),
                }
                for way, latency in measure_latency(calls, runs=args.runs).items()
            ]
    return {
        'size': list(args.size),
        'stride': args.stride,
        'classes': args.classes,
        'rows': rows,
        **describe_machine('openvino', 'onnxruntime'),
    }


def _boundary_cells(logits: Tensor) -> float:
    """Return the share of the cells whose corners are not all of one class."""
    best = logits.argmax(1)
    corners = [best[:, y : y - 1 or None, x : x - 1 or None] for y in (0, 1) for x in (0, 1)]
    return float((torch.stack(corners) != corners[0]).any(0).float().mean())


def _torch(tail: nn.Module, logits: Tensor) -> Call:
    module = torch.export.export(tail, (logits,)).module()

    def call(logits: Tensor) -> Any:
        with torch.inference_mode():
            return module(logits)

    return call


def _openvino(tail: nn.Module, logits: Tensor) -> Call:
    import openvino

    model = openvino.convert_model(torch.export.export(tail, (logits,)))
    model.reshape(list(logits.shape))
    options = {'PERFORMANCE_HINT': 'LATENCY', 'INFERENCE_PRECISION_HINT': 'f32'}
    request = openvino_core().compile_model(model, 'CPU', options).create_infer_request()
    return lambda logits: request.infer([logits.numpy()], share_inputs=True, share_outputs=True)[0]


def _onnxruntime(tail: nn.Module, logits: Tensor) -> Call:
    import onnxruntime

    program = torch.onnx.export(torch.export.export(tail, (logits,)), dynamo=True, verbose=False)
    assert program is not None
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(
        program.model_proto.SerializeToString(), options, providers=['CPUExecutionProvider']
    )
    name = session.get_inputs()[0].name
    return lambda logits: session.run(None, {name: logits.numpy()})[0]


OPENERS: dict[str, Callable[[nn.Module, Tensor], Call]] = {
    'torch': _torch,
    'openvino': _openvino,
    'onnxruntime': _onnxruntime,
}


def table(result: dict[str, Any]) -> str:
    """Return the result as lines of text."""
    lines = [f'{"":<32}{"boundary":>9}{"p50 ms":>9}{"p95 ms":>9}{"faster":>8}{"peak MiB":>10}{"differ":>9}']
    dense: dict[str, Any] = {}
    for row in result['rows']:
        dense = row if row['way'] == 'enlarged' else dense  # which comes before the other
        memory = '?' if row['peak_memory_mib'] is None else f'{row["peak_memory_mib"]:.0f}'
        lines.append(
            f'{row["runtime"] + ", " + row["logits"] + ", " + row["way"]:<32}{row["boundary_cells"]:>9.1%}'
            f'{row["p50_ms"]:>9.1f}{row["p95_ms"]:>9.1f}{dense["p50_ms"] / row["p50_ms"]:>7.2f}x{memory:>10}'
            f'{row["pixels_different"]:>9}'
        )
    size = 'x'.join(map(str, result['size']))
    what = f'{size}, stride {result["stride"]}, {result["classes"]} classes'
    return '\n'.join([*lines, f'{what}; {result["device"]}, {result["threads"]} threads'])
