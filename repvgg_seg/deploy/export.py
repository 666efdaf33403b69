"""Export of the inference graph to single files; a file that computes something else is not written."""

from __future__ import annotations

import importlib
import json
import math
import re
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timezone
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import Progress
from torch import Tensor, nn

from .. import files
from ..environment import versions
from ..locking import one_at_a_time
from ..models.quantized import quantizers, without_rounding
from ..runtime.backends import open_model
from ..runtime.images import Array
from ..runtime.metadata import ARCHIVE_NAME, KEY, MEAN_COLOUR, Fit, ModelMetadata, Output, Preparation
from ..runtime.precision import PRECISIONS
from ..runtime.segmenter import Segmenter
from .convert import MIN_AGREEMENT, MIN_QUANTIZED_AGREEMENT, VerificationError, synthetic_images
from .graph import InferenceGraph, choose_for_int8, fold_norms
from .quantize import Batches, Calibration, QuantizationRefused, layer_names, quantize

DTYPES: dict[str, torch.dtype] = {name: getattr(torch, row.dtype) for name, row in PRECISIONS.items()}


@dataclass(frozen=True)
class Target:
    """A kind of file."""

    suffix: str
    packages: tuple[str, ...]  # the packages, beside torch, that write and run it
    backend: str  # the runtime of the comparison
    write: Callable[[InferenceGraph, Path, ModelMetadata], None]

    @property
    def precisions(self) -> list[str]:
        """Those that its backend computes in, so that what is written can be verified."""
        return [name for name, row in PRECISIONS.items() if self.backend in row.backends]


@dataclass
class Parity:
    """How far a file's output is from that of the float32 graph in torch with its norms unfolded.

    In float32 the classes of all pixels count. Half precision is rounding that no export can avoid, so there the pixels
    count whose best class leads by more than the tolerated deviation; `agreement` is of all of them nevertheless.
    """

    precision: str
    images: int = 0
    pixels: int = 0
    equal: int = 0
    decided: int = 0  # pixels whose class rounding cannot change
    decided_equal: int = 0
    max_abs: float = 0.0  # of the logits
    scale: float = 0.0  # the largest magnitude of the float32 logits

    def add(self, reference: Tensor, threshold: float, classes: Tensor, logits: Tensor, expected: Tensor) -> None:
        """Count a batch: `reference` and `logits` (N, classes, H, W), `expected` and `classes` (N, H, W)."""
        if reference.shape[1] == 1:
            margin = (reference[:, 0] - torch.logit(torch.tensor(threshold))).abs()
        else:
            best = reference.topk(2, 1).values
            margin = best[:, 0] - best[:, 1]
        self.scale = max(self.scale, reference.abs().max().item())
        equal, decided = classes == expected, margin > PRECISIONS[self.precision].max_rel * self.scale
        self.images, self.pixels = self.images + len(equal), self.pixels + equal.numel()
        self.equal += int(equal.sum())
        self.decided += int(decided.sum())
        self.decided_equal += int(equal[decided].sum())
        # numpy's maximum, unlike Python's, keeps what is not a number.
        self.max_abs = float(np.maximum(self.max_abs, (logits - reference).abs().max().item()))

    def summary(self) -> dict[str, Any]:
        """Return the figures of the report."""
        figures = {
            'images': self.images,
            'agreement': self.equal / self.pixels,
            'max_abs': self.max_abs,
            'max_rel': self.max_abs / (self.scale or 1.0),
            'tolerated': {'max_rel': PRECISIONS[self.precision].max_rel, 'agreement': MIN_AGREEMENT},
        }
        if self.precision == 'int8':  # of a network that was trained with the same rounding: see verify_quantized
            figures['tolerated'] = {'max_rel': None, 'agreement': MIN_QUANTIZED_AGREEMENT}
        elif self.precision != 'fp32':
            share = self.decided_equal / self.decided if self.decided else 1.0
            figures['decided'] = {'share': self.decided / self.pixels, 'agreement': share}
        return figures


def export_segmentor(
    segmentor: nn.Module,
    path: files.StrPath,
    *,
    to: str,
    size: tuple[int, int],
    image_size: tuple[int, int] | None = None,
    batch: int | None = 1,
    precision: str = 'fp32',
    output: Output = 'classes',
    classes: Sequence[str] = (),
    palette: Sequence[Sequence[int]] = (),
    source: dict[str, str],
    preparation: Preparation | None = None,
    fit: Fit = 'test',
    images: Sequence[Array] = (),
    calibration: Calibration | None = None,
) -> dict[str, Any]:
    """Write the inference graph of a deployed `segmentor` to `path`, and beside it the report that is returned.

    The graph is that of InferenceGraph for images of `image_size` (H, W), by default the `size` that the network sees;
    `batch` None takes any number of them. In what is written it is run with synthetic images and with `images`,
    (H, W, C) of any size, which are resized; what fails the comparison (see Parity) is not written.
    `source` is the file and the sha256 of the weights. Classes without name or colour get one. `preparation` is how the
    test prepares images, by default not at all, and `fit` what a Segmenter does by default; a graph that resizes images
    itself takes them as they are. int8 needs a `calibration`: it is made of the float32 file, once that is proven, and
    not written if it loses more than the calibration permits. A segmentor that was trained with fake quantization needs
    none: its file rounds as it does, and is compared with that. In other precisions it is exported without rounding.

    Raises:
        ImportError: a package that writes or runs such files is not installed.
        QuantizationRefused: int8 loses more than it may; the report, which is written nevertheless, says why.
        VerificationError: the exported graph does not compute what the original does.
        ValueError: an argument does not fit the others, or the segmentor has no inference graph.
    """
    target, path = _checked(to, precision, path, size, image_size, batch)
    trained = precision == 'int8' and bool(quantizers(segmentor))
    if trained and calibration:
        raise ValueError('this model was trained in int8 and has its ranges: leave --calibration out')
    if precision == 'int8' and not (trained or calibration):
        raise ValueError(
            'int8 needs images: name a config, or a folder of images, with --calibration, or train the model with '
            'configs/_base_/quantization_aware.py'
        )
    if precision != 'int8' and calibration:
        raise ValueError(f'only int8 is calibrated with images, and {precision} was asked for')
    packages = (*target.packages, *(['nncf'] if calibration else []))
    _require(to, packages)
    if not trained:
        segmentor = without_rounding(segmentor)
    reference = InferenceGraph(segmentor, resize_to=size if image_size not in (None, size) else None, output=output)
    reference = reference.cpu().eval()
    image_size = image_size or size
    if other := {image.shape[2] for image in images} - {reference.channels}:
        raise ValueError(f'images of {other.pop()} channels were given, and the model takes {reference.channels}')
    checks = [
        *synthetic_images(image_size, reference.channels).unbind(),
        *(torch.from_numpy(_resized(image, image_size)) for image in images),
    ]
    with Progress(console=Console(stderr=True), transient=True) as progress, _working_folder(path) as folder:
        task = progress.add_task(f'exporting to {to}', total=3 + len(checks))
        with torch.inference_mode():
            outputs = reference.logits(checks[0][None]).shape[1]
        progress.advance(task)
        metadata = ModelMetadata(
            **_named(outputs, classes, palette),
            batch=batch,
            size=image_size,
            output=output,
            precision='fp32' if calibration else precision,
            threshold=reference.threshold if outputs == 1 else None,
            align_corners=reference.align_corners,
            preparation=_with_resizing(preparation or Preparation(), reference),
            fit=fit,
            source=source,
            versions=versions() | {package: version(package) for package in packages},
            created=datetime.now(timezone.utc).isoformat(timespec='seconds'),
            mean=_padding(reference),
        )
        run = {}
        # The logits that are compared come from a twin of the file, if the file itself returns classes.
        for kind in dict.fromkeys((output, 'logits')):
            network = fold_norms(segmentor).cpu()
            if calibration:
                choose_for_int8(network)
            graph = InferenceGraph(network, resize_to=reference.resize_to, output=kind)
            for quantizer in quantizers(graph):
                quantizer.freeze()
            file = folder / kind / path.name
            file.parent.mkdir()
            with _quiet():
                target.write(graph, file, replace(metadata, output=kind))
                run[kind] = _runner(file, target.backend)
            progress.advance(task)
        parity = Parity(metadata.precision)
        for new, group in _groups(checks, batch):
            with torch.inference_mode():
                logits = run['logits'](group)[:new]
                got = run['classes'](group)[:new] if output == 'classes' else reference.classes(logits)
                expected = reference.logits(group[:new])
                parity.add(expected, reference.threshold, got, logits, reference.classes(expected))
            progress.advance(task, new)
        figures = parity.summary()
        _require_parity(path, figures)
        report: dict[str, Any] = {'file': path.name, 'to': to, 'parity': figures}
        if calibration:
            progress.stop()  # the quantization has its own
            metadata = replace(metadata, precision='int8')
            try:
                report['quantization'] = _quantize(
                    segmentor, reference, folder / output / path.name, folder / 'int8', calibration, target, metadata
                )
            except QuantizationRefused as error:
                _write_report(path, report | {'refused': str(error), 'quantization': error.report})
                raise
        written = _publish(folder / ('int8' if calibration else output), path)
        report |= {
            'bytes': sum(part.stat().st_size for part in written),
            'sha256': {part.name: files.sha256(part) for part in written},
            'metadata': json.loads(metadata.to_json()),
        }
        _write_report(path, report)
    return report


def _with_resizing(preparation: Preparation, graph: InferenceGraph) -> Preparation:
    """Return what is left to prepare, where the graph itself may resize."""
    return replace(preparation, scale=None) if graph.resize_to else preparation


def _quantize(
    segmentor: nn.Module,
    reference: InferenceGraph,
    file: Path,
    folder: Path,
    calibration: Calibration,
    target: Target,
    metadata: ModelMetadata,
) -> dict[str, Any]:
    segmenter = Segmenter(file, backend=target.backend, device='cpu')
    size = reference.resize_to

    def classes(scores: Tensor) -> Tensor:
        return reference.classes(scores, metadata.size)

    def program() -> torch.fx.GraphModule:
        network = choose_for_int8(fold_norms(segmentor).cpu())
        return _trace(InferenceGraph(network, resize_to=size), metadata).module()

    folder.mkdir()
    return quantize(
        file,
        folder / file.name,
        calibration,
        Batches(lambda: segmenter.batches(calibration.images)),
        run=lambda path: _runner(path, target.backend, whole=False),
        classes=torch.inference_mode()(classes),
        program=program,
    )


def _write_report(path: Path, report: dict[str, Any]) -> None:
    files.write_text(json.dumps(report, indent=2) + '\n', _report_of(path))


def _report_of(path: Path) -> Path:
    return path.with_name(f'{path.name}.report.json')


def _checked(
    to: str,
    precision: str,
    path: files.StrPath,
    size: tuple[int, int],
    image_size: tuple[int, int] | None,
    batch: int | None,
) -> tuple[Target, Path]:
    if to not in TARGETS:
        raise ValueError(f'there is no target {to!r}: choose one of {", ".join(TARGETS)}')
    target, path = TARGETS[to], Path(path)
    if precision not in target.precisions:
        raise ValueError(
            f'{to} cannot be exported in {precision!r}, only in {", ".join(target.precisions)}: '
            'nothing here runs the others, and what cannot be verified is not written'
        )
    if min(*size, *(image_size or size), 1 if batch is None else batch) < 1:
        raise ValueError(f'sizes and batches begin at 1; got size {size}, images of {image_size}, batch {batch}')
    if path.suffix.lower() != target.suffix:
        raise ValueError(f'{path} must end in {target.suffix} to be read as what --to {to} writes')
    if path.is_dir():
        raise ValueError(f'{path} is a folder: name the file to write')
    return target, path


def _require(to: str, packages: Sequence[str]) -> None:
    for package in packages:
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(
                f'exporting to {to} needs {package}, which cannot be imported ({error}): '
                f'`pip install {" ".join(packages)}` brings it'
            ) from error


@contextmanager
def _working_folder(path: Path) -> Iterator[Path]:
    """Make a folder beside `path` that lives as long as the work, where a file can take its place by being renamed.

    Another process that writes `path` waits; what one left that was killed is removed.
    """
    folder = files.beside(path, 'export')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with one_at_a_time(path):
            files.remove(folder)
            folder.mkdir()
            try:
                yield folder
            finally:
                files.remove(folder)
    except OSError as error:
        raise files.FileError(
            f'{path.parent} cannot be written ({error.strerror or error}): choose another folder'
        ) from error


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence what exporters warn about: their own deprecations."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')
        yield


def _named(channels: int, classes: Sequence[str], palette: Sequence[Sequence[int]]) -> dict[str, Any]:
    """Return name and colour of each class, made up where they are not known."""
    number = max(2, channels)  # the one channel of a sigmoid separates two classes
    if len(classes) > number:
        raise ValueError(f'the model distinguishes {number} classes, but {len(classes)} are named: see its metadata')
    names = [*classes, *(f'class {index}' for index in range(len(classes), number))]
    colours = [tuple(colour) for colour in palette[:number]]
    # Spread over the cube by multiples of irrational parts of it: no two of thousands are equal or near.
    colours += [
        tuple(int(index * part * 256) % 256 for part in (0.8192, 0.6711, 0.5497))
        for index in range(len(colours), number)
    ]
    return {'classes': tuple(names), 'palette': tuple(colours)}


def _padding(graph: InferenceGraph) -> tuple[int, ...]:
    """Return the colour that images are padded with: what normalisation takes to zero, for RGB as in training."""
    return MEAN_COLOUR if graph.channels == 3 else tuple(graph.mean.flatten().round().clamp(0, 255).int().tolist())


def _resized(image: Array, size: tuple[int, int]) -> Array:
    import cv2

    if image.shape[:2] == size:
        return image
    return cv2.resize(image, size[::-1]).reshape(*size, -1)  # which drops the axis of a single channel


def _groups(images: Sequence[Tensor], batch: int | None) -> Iterator[tuple[int, Tensor]]:
    """Yield `images` as batches, each with its number of new images: the last batch is filled up with earlier ones.

    Where their number is not fixed, the first batch is of one image and the others are of two.
    """
    start = 0
    while start < len(images):
        number = batch or (2 if start else 1)
        group = [images[index % len(images)] for index in range(start, start + number)]
        yield min(number, len(images) - start), torch.stack(group)
        start += number


def _runner(path: Path, backend: str, *, whole: bool = True) -> Callable[[Tensor], Tensor]:
    """Open a file that was just written, as an application does."""
    _, model = open_model(path, backend, 'cpu', 'latency', trust=True, whole=whole)

    def run(images: Tensor) -> Tensor:
        ((_, result),) = model.map([(None, images.numpy())])
        return torch.from_numpy(np.array(result))  # a copy: the memory is the runtime's

    return run


def _require_parity(path: Path, figures: dict[str, Any]) -> None:
    agreement = figures.get('decided', figures)['agreement']
    limit, needed = figures['tolerated']['max_rel'], figures['tolerated']['agreement']
    if figures['max_rel'] <= (math.inf if limit is None else limit) and agreement >= needed:  # so that NaN fails
        return
    allowed = '' if limit is None else f', where {limit:g} is allowed'
    overflow = limit is None and not PRECISIONS['int8'].fast_on_this_cpu()
    cure = (
        ' This CPU has no VNNI, so kernels of 8 bits may overflow: export on one that has, or train with '
        'model.quantized=7.'
    )
    raise VerificationError(
        f'the exported graph is not equal to the original: its logits are up to {figures["max_rel"]:.3g} off, '
        f'relative to the largest{allowed}, and {agreement:.4%} of the pixels that count agree, where {needed:.2%} '
        f'must. {path} was not written.{cure if overflow else ""}'
    )


def _publish(folder: Path, path: Path) -> list[Path]:
    """Move what was written as `path.name` in `folder`, and what lies beside it, to where `path` is."""
    parts = sorted(folder.iterdir(), key=lambda part: part.name == path.name)
    _report_of(path).unlink(missing_ok=True)  # if this is killed half-way, no report is of another file
    if len(parts) > 1:  # and no model is left instead of parts of two
        path.unlink(missing_ok=True)
    for part in parts:
        files.replace(part, path.with_name(part.name))
    return [path.with_name(part.name) for part in parts]


# ---- the targets


def _trace(graph: InferenceGraph, metadata: ModelMetadata) -> torch.export.ExportedProgram:
    example = torch.zeros(metadata.batch or 2, *metadata.size, metadata.channels, dtype=torch.uint8)
    dynamic = {'images': {0: torch.export.Dim('batch')}} if metadata.batch is None else None
    with torch.no_grad():
        return torch.export.export(graph, (example,), dynamic_shapes=dynamic)


def _write_program(graph: InferenceGraph, path: Path, metadata: ModelMetadata) -> None:
    program = _trace(graph.cast(DTYPES[metadata.precision]), metadata)
    torch.export.save(program, path, extra_files={ARCHIVE_NAME: metadata.to_json()})


def _write_onnx(graph: InferenceGraph, path: Path, metadata: ModelMetadata) -> None:
    import onnx

    traced = _trace(graph.cast(DTYPES[metadata.precision]), metadata)
    program = torch.onnx.export(
        traced,
        dynamo=True,
        custom_translation_table=_onnx_quantizers(),
        input_names=['images'],
        output_names=[metadata.output],
        external_data=False,
        verbose=False,
    )
    assert program is not None  # it is None for the exporter that we don't use
    model = program.model_proto
    names = {f'node_{node}': name for node, name in layer_names(traced.module()).items()}
    for node in model.graph.node:
        node.name = names.get(node.name, node.name)
    _separate_zero_points(model.graph)
    onnx.helper.set_model_props(model, {KEY: metadata.to_json()})
    onnx.save_model(model, path)
    onnx.checker.check_model(path, full_check=True)


def _separate_zero_points(graph: Any) -> None:
    """Give each dequantized kernel a zero point of its own.

    To avoid overflow ONNX Runtime rewrites kernels and their zero points, and fails if two layers share one.
    """
    known = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        shared = known.get(node.input[2]) if node.op_type == 'DequantizeLinear' else None
        if shared is not None and shared.dims:  # of channels, so of a kernel
            zero = graph.initializer.add()
            zero.CopyFrom(shared)
            zero.name = node.input[2] = f'{node.output[0]}_zero'


def _onnx_quantizers() -> dict[Callable[..., Any], Callable[..., Any]]:
    """Return what fake quantization is in ONNX, which torch's exporter does not know."""
    from onnxscript import INT8, UINT8, opset18

    op: Any = opset18

    def per_tensor(x: Any, scale: float, zero_point: int, quant_min: int, quant_max: int) -> Any:
        step, zero = op.Constant(value_float=scale), op.Cast(op.Constant(value_int=zero_point), to=UINT8.dtype)
        return op.DequantizeLinear(op.QuantizeLinear(x, step, zero), step, zero)

    def per_channel(x: Any, scale: Any, zero_point: Any, axis: int, quant_min: int, quant_max: int) -> Any:
        zero = op.Cast(zero_point, to=INT8.dtype)
        return op.DequantizeLinear(op.QuantizeLinear(x, scale, zero, axis=axis), scale, zero, axis=axis)

    aten = torch.ops.aten
    return {
        aten.fake_quantize_per_tensor_affine.default: per_tensor,
        aten.fake_quantize_per_channel_affine.default: per_channel,
    }


def _write_openvino(graph: InferenceGraph, path: Path, metadata: ModelMetadata) -> None:
    import openvino

    # Its reader of torch programs does not know uint16; the output of the file is made uint16 below.
    graph.wide = torch.int32
    traced = _trace(graph, metadata)
    model = openvino.convert_model(traced)
    convolutions = [op for op in model.get_ops() if 'Convolution' in op.get_type_name()]
    names = list(layer_names(traced.module()).values())
    for op in convolutions:  # convolution/..., convolution_1/..., convolution_2/..., numbered as in the traced graph
        number = re.match(r'convolution_?(\d*)/', op.get_friendly_name())
        if number and len(convolutions) == len(names):
            op.set_friendly_name(names[int(number[1] or 0)])
    model.reshape([metadata.batch or -1, *metadata.size, metadata.channels])
    model.inputs[0].get_tensor().set_names({'images'})
    if metadata.output == 'classes' and len(metadata.classes) > 256:
        processor = openvino.preprocess.PrePostProcessor(model)
        processor.output().tensor().set_element_type(openvino.Type.u16)
        model = processor.build()
    model.outputs[0].get_tensor().set_names({metadata.output})
    model.set_rt_info(metadata.to_json(), [KEY])
    # In bfloat16 the runtime rounds the weights itself, as metadata.precision asks it to.
    openvino.save_model(model, path, compress_to_fp16=metadata.precision == 'fp16')


TARGETS = {
    'onnx': Target('.onnx', ('onnx', 'onnxscript', 'onnxruntime'), 'onnxruntime', _write_onnx),
    'openvino': Target('.xml', ('openvino',), 'openvino', _write_openvino),
    'exported-program': Target('.pt2', (), 'torch', _write_program),
}
