"""Post-training quantization of exported files, and what it costs: int8 that keeps the accuracy, or is refused.

NNCF observes what flows between the layers while images go through the float32 file, as they will in use, and writes
the ranges into it: weights per channel, activations per tensor. From the image to the last convolution everything may
be quantized; what comes behind, enlarging the logits and choosing classes, stays in float32.

A CPU without VNNI adds two products of 8 bits in 16, which overflows silently where weights are large. What is measured
on such a CPU has lost that, too; where it is too much, weights of 7 bits are tried, which cannot overflow.
"""

from __future__ import annotations

import contextlib
import itertools
import logging
import shlex
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor, fx

from ..runtime.backends import openvino_core
from ..runtime.images import Array
from ..runtime.metadata import KEY, ModelMetadata
from ..runtime.precision import PRECISIONS
from ..runtime.segmenter import Source
from .convert import VerificationError

MIN_AGREEMENT = 0.9  # of the classes with those of the float32 file, where no labels tell which of them is right
MAX_DROP = 1.0  # of the mIoU, in percentage points
SENSITIVITY_BATCHES = 2  # on which each layer is quantized alone
REMAINING = 0.2  # of what the layers cost one by one, that may stay where it is advised to keep the others in float

CONVOLUTIONS = {'Conv', 'ConvTranspose', 'Convolution', 'GroupConvolution', 'ConvolutionBackpropData'}
QUANTIZERS = {'QuantizeLinear', 'DequantizeLinear', 'FakeQuantize'}


@dataclass(frozen=True)
class Calibration:
    """What int8 is calibrated with, and what it has to keep.

    `images` are files or arrays, which are prepared as a Segmenter prepares them. `evaluate` returns the mIoU of a
    file, in percent, of which `max_drop` points may be lost; without labels it is None. `min_agreement` is the share of
    the pixels of `images` that must keep their class. `keep_float` names layers that are not quantized;
    `accuracy_control` adds those to them that lose most, as many as it takes. `command` is what was called, to be
    repeated with other options.

    Raises:
        ValueError: a limit is none.
    """

    images: Sequence[Source]
    min_agreement: float | None = MIN_AGREEMENT
    evaluate: Callable[[Path], float] | None = None
    max_drop: float = MAX_DROP
    keep_float: Sequence[str] = ()
    accuracy_control: bool = False
    command: str = ''

    def __post_init__(self) -> None:
        if not (self.min_agreement is None or 0 <= self.min_agreement <= 1):
            raise ValueError(f'the agreement is a share from 0 to 1, and {self.min_agreement:g} is demanded')
        if self.max_drop < 0:
            raise ValueError(f'the mIoU may fall by 0 points or more, not by {self.max_drop:g}')


class QuantizationRefused(VerificationError):
    """The int8 file loses more than it may; `report` has the figures, and what each layer costs."""

    def __init__(self, message: str, report: dict[str, Any]) -> None:
        super().__init__(message)
        self.report = report


# ---- files


class Node(NamedTuple):
    """An operation of a graph, with the names of what it reads and what it makes."""

    name: str
    kind: str
    reads: set[str]
    makes: set[str]


class ONNXFile:
    """An .onnx file; tensors are named."""

    def __init__(self, path: Path) -> None:
        import onnx

        self.model = onnx.load(path)
        (self.input,) = (value.name for value in self.model.graph.input)
        self.metadata = next((item.value for item in self.model.metadata_props if item.key == KEY), '')

    def nodes(self) -> list[Node]:
        """Return the operations, each behind those that it reads."""
        return [Node(n.name, n.op_type, set(n.input), set(n.output)) for n in self.model.graph.node]

    def end_at(self, node: Node) -> None:
        """Let the file return what `node` makes."""
        import onnx

        (name,) = node.makes
        del self.model.graph.output[:]
        self.model.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))

    def save(self, path: Path) -> None:
        """Write it."""
        import onnx

        onnx.helper.set_model_props(self.model, {KEY: self.metadata})
        onnx.save_model(self.model, path)


class OpenVINOFile:
    """An .xml file with its weights; operations are named, and so is what each makes."""

    input = 0

    def __init__(self, path: Path) -> None:
        self.model = openvino_core().read_model(path)
        self.metadata = self.model.get_rt_info([KEY]).value

    def nodes(self) -> list[Node]:
        """Return the operations, each behind those that it reads."""
        return [
            Node(
                op.get_friendly_name(),
                op.get_type_name(),
                {value.get_node().get_friendly_name() for value in op.input_values()},
                {op.get_friendly_name()},
            )
            for op in self.model.get_ordered_ops()
            if op.get_type_name() not in ('Constant', 'Parameter', 'Result')
        ]

    def end_at(self, node: Node) -> None:
        """Let the file return what `node` makes."""
        import openvino

        (op,) = (op for op in self.model.get_ops() if op.get_friendly_name() == node.name)
        self.model = openvino.Model([op.output(0)], self.model.get_parameters())

    def save(self, path: Path) -> None:
        """Write it."""
        import openvino

        self.model.set_rt_info(self.metadata, [KEY])
        for part in (path, path.with_suffix('.bin')):
            part.unlink(missing_ok=True)  # models may have it mapped into memory, and crash if it is written over
        openvino.save_model(self.model, path, compress_to_fp16=False)


FILES: dict[str, Callable[[Path], Any]] = {'.onnx': ONNXFile, '.xml': OpenVINOFile}


def layers(nodes: Sequence[Node]) -> list[str]:
    """Return the names of the convolutions.

    Raises:
        ValueError: there are none.
    """
    if found := [node.name for node in nodes if node.kind in CONVOLUTIONS]:
        return found
    raise ValueError('the model has no convolution: there is nothing to quantize')


def behind_the_network(nodes: Sequence[Node]) -> list[Node]:
    """Return the operations that no convolution depends on, which enlarge the logits and choose classes."""
    needed: set[str] = set()
    tail = []
    for node in reversed(nodes):
        if node.kind in CONVOLUTIONS or node.makes & needed:
            needed |= node.reads
        else:
            tail.append(node)
    return tail[::-1]


def scores(nodes: Sequence[Node]) -> Node:
    """Return the operation that makes the logits: the last convolution, or what adds its bias."""
    (last,) = [node for node in nodes if node.kind in CONVOLUTIONS][-1:]
    readers = [node for node in nodes if node.reads & last.makes]
    return readers[0] if [node.kind for node in readers] == ['Add'] else last


def quantize_file(
    path: Path,
    out: Path,
    batches: Iterable[Array],
    number: int | None = None,
    *,
    keep_float: Sequence[str] = (),
    weight_bits: int = 8,
) -> None:
    """Write the float32 file `path` quantized to `out`, calibrated with the first `number` of `batches` (N, H, W, C).

    `batches` are iterated several times. The layers `keep_float` are not quantized; `weight_bits` are 8, or 7, which no
    CPU adds up to an overflow.

    Raises:
        ValueError: the file is quantized already or has no convolution, or a layer does not exist.
    """
    import nncf
    from nncf.quantization.advanced_parameters import OverflowFix

    nncf.set_log_level(logging.ERROR)
    file = FILES[path.suffix.lower()](path)
    nodes = file.nodes()
    if any(node.kind in QUANTIZERS for node in nodes):
        raise ValueError(f'{path} is quantized already: quantize the float32 file')
    known = layers(nodes)
    if unknown := [name for name in keep_float if name not in known]:
        raise ValueError(f'there is no layer {unknown[0]!r} to keep in float: choose from {", ".join(known)}')
    if not set(known) - set(keep_float):
        raise ValueError('every layer is to be kept in float: there is nothing to quantize')
    data = nncf.Dataset(batches, lambda images: {file.input: images})
    ignored = [*keep_float, *(node.name for node in behind_the_network(nodes))]
    with contextlib.redirect_stdout(sys.stderr):  # its progress
        file.model = nncf.quantize(
            file.model,
            data,
            subset_size=number if number is not None else sum(1 for _ in batches),
            ignored_scope=nncf.IgnoredScope(names=ignored, validate=False),
            advanced_parameters=nncf.AdvancedQuantizationParameters(
                overflow_fix=OverflowFix.FIRST_LAYER if weight_bits == 8 else OverflowFix.ENABLE
            ),
        )
    file.metadata = replace(ModelMetadata.from_json(file.metadata), precision='int8').to_json()
    file.save(out)


def cut(path: Path, out: Path) -> Path:
    """Write to `out` the part of `path` that returns the logits (N, classes, h, w), as small as they are made."""
    file = FILES[path.suffix.lower()](path)
    file.end_at(scores(file.nodes()))
    file.save(out)
    return out


# ---- what it costs


@dataclass
class Batches:
    """What the graph is given of images, read anew in each iteration: a calibration reads them several times."""

    make: Callable[[], Iterator[Array]]

    def __iter__(self) -> Iterator[Array]:
        return self.make()


@dataclass
class Comparison:
    """How far an int8 file is from the float32 file."""

    pixels: int = 0
    equal: int = 0
    values: int = 0
    max_abs: float = 0.0  # of the logits
    sum_abs: float = 0.0
    scale: float = 0.0  # the largest magnitude of the float32 logits

    def add(self, logits: Tensor, reference: Tensor, classes: Callable[[Tensor], Tensor]) -> None:
        """Count a batch of logits (N, classes, h, w)."""
        equal, deviation = classes(logits) == classes(reference), (logits - reference).abs()
        self.pixels, self.equal = self.pixels + equal.numel(), self.equal + int(equal.sum())
        self.max_abs = max(self.max_abs, deviation.max().item())
        self.values, self.sum_abs = self.values + deviation.numel(), self.sum_abs + deviation.sum().item()
        self.scale = max(self.scale, reference.abs().max().item())

    def summary(self) -> dict[str, float]:
        """Return the figures of the report."""
        return {
            'agreement': self.equal / self.pixels,
            'max_abs': self.max_abs,
            'mean_abs': self.sum_abs / self.values,
            'max_rel': self.max_abs / (self.scale or 1.0),
        }


def layer_names(program: fx.GraphModule) -> dict[str, str]:
    """Return the convolutions in order: the name of the node -> that of the module whose kernel it takes."""
    names: dict[str, str] = {}
    for node in program.graph.nodes:
        if node.op == 'call_function' and str(node.target).startswith(('aten.conv', 'aten.conv_transpose')):
            kernel = node.args[1]
            while kernel.op != 'get_attr' and kernel.all_input_nodes:
                kernel = kernel.all_input_nodes[0]  # a part of it
            name = str(kernel.target).removesuffix('.weight') if kernel.op == 'get_attr' else node.name
            names[node.name] = f'{name} ({node.name})' if name in names.values() else name
    return names


class _OneInInt8(fx.Interpreter):
    """Runs a program, of which one convolution computes as in int8."""

    def __init__(self, program: fx.GraphModule, layer: str) -> None:
        super().__init__(program)
        self.layer = layer

    def run_node(self, node: fx.Node) -> Any:
        if node.name != self.layer:
            return super().run_node(node)
        (x, kernel, *others), options = self.fetch_args_kwargs_from_env(node)
        target: Any = node.target
        return target(
            _rounded(x, x.abs().max()), _rounded(kernel, kernel.abs().amax((1, 2, 3), True)), *others, **options
        )


def _rounded(x: Tensor, largest: Tensor) -> Tensor:
    """Return `x` as 8 bits hold it; where nothing is negative, none is spent on the sign."""
    step = largest.clamp_min(torch.finfo(x.dtype).tiny) / (127 if x.min() < 0 else 255)
    return (x / step).round() * step


@torch.inference_mode()
def sensitivity(program: fx.GraphModule, batches: Sequence[Array]) -> dict[str, float]:
    """Return the share of the pixels that change class where one layer alone computes in int8, the worst layer first.

    `program` returns classes.
    """
    images = [torch.from_numpy(batch) for batch in batches]
    expected = [program(batch) for batch in images]
    found = {}
    work = track(layer_names(program).items(), 'each layer alone', console=Console(stderr=True), transient=True)
    for node, name in work:
        run = _OneInInt8(program, node)
        changed = [(run.run(batch) != classes).double().mean() for batch, classes in zip(images, expected, strict=True)]
        found[name] = float(torch.stack(changed).mean())
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def quantize(
    path: Path,
    out: Path,
    calibration: Calibration,
    batches: Batches,
    *,
    run: Callable[[Path], Callable[[Tensor], Tensor]],
    classes: Callable[[Tensor], Tensor],
    program: Callable[[], fx.GraphModule],
) -> dict[str, Any]:
    """Write the float32 file `path` quantized to `out`, if it loses no more than it may; return what it loses.

    `run` opens a file, `classes` makes classes (N, H, W) of the network's logits (N, classes, h, w), and `program`
    returns the graph for `sensitivity`.

    Raises:
        QuantizationRefused: it loses more.
        ValueError: see `quantize_file`.
    """
    number = sum(1 for _ in batches)
    before = calibration.evaluate(path) if calibration.evaluate else None
    expected = run(cut(path, path.with_stem(f'{path.stem}_logits')))
    keep, ranking = list(calibration.keep_float), dict[str, float]()
    widths = (8,) if PRECISIONS['int8'].fast_on_this_cpu() else (8, 7)
    while True:
        tries = []
        for bits in widths:
            quantize_file(path, out, batches, number, keep_float=keep, weight_bits=bits)
            found = run(cut(out, path.with_stem(f'{path.stem}_int8_logits')))
            comparison = Comparison()
            work = track(batches, 'comparing', number, console=Console(stderr=True), transient=True)
            for images in map(torch.from_numpy, work):
                comparison.add(found(images), expected(images), classes)
            report: dict[str, Any] = {
                'images': len(calibration.images),
                **comparison.summary(),
                'labels': before is not None,
                'tolerated': {'max_drop': calibration.max_drop, 'min_agreement': calibration.min_agreement},
                'keep_float': keep,
                'weight_bits': bits,
            }
            if before is not None and calibration.evaluate:
                after = calibration.evaluate(out)
                report['mIoU'] = {'fp32': before, 'int8': after, 'drop': before - after}
            if not _reason(report):
                return report
            tries.append(report)
        report = max(tries, key=lambda report: report['mIoU']['int8'] if report['labels'] else report['agreement'])
        widths = (report['weight_bits'],)
        ranking = ranking or sensitivity(program(), [*itertools.islice(batches, SENSITIVITY_BATCHES)])
        worst = [name for name in ranking if name not in keep]
        keep = [*keep, *worst[: max(1, len(keep) - len(calibration.keep_float))]]  # 1, 2, 4, ... of the worst
        if not calibration.accuracy_control or len(keep) >= len(ranking):
            advice = _advice(ranking, calibration)
            raise QuantizationRefused(
                f'int8 loses too much and was not written: {_reason(report)}; '
                f'to keep the worst layers in float: {advice}',
                report | {'sensitivity': ranking, 'command': advice},
            )


def _reason(report: dict[str, Any]) -> str:
    """Return what is worse than it may be, or nothing."""
    limits, mean_iou = report['tolerated'], report.get('mIoU')
    if mean_iou and not mean_iou['drop'] <= limits['max_drop']:
        return (
            f'mIoU {mean_iou["fp32"]:.2f} becomes {mean_iou["int8"]:.2f}, '
            f'and {limits["max_drop"]:g} points are what it may lose'
        )
    if limits['min_agreement'] is not None and not report['agreement'] >= limits['min_agreement']:
        return (
            f'{report["agreement"]:.2%} of the pixels keep their class, and {limits["min_agreement"]:.2%} are demanded'
        )
    return ''


def _advice(ranking: dict[str, float], calibration: Calibration) -> str:
    """Return the command that keeps those layers in float that make up most of what all of them cost one by one."""
    costs = {name: cost for name, cost in ranking.items() if name not in calibration.keep_float}
    total, names = sum(costs.values()), list(calibration.keep_float)
    for name, cost in costs.items():
        names.append(name)
        total -= cost
        if total <= REMAINING * sum(costs.values()):
            break
    return f'{calibration.command} --keep-float {shlex.join(names)}'.strip()
