"""What must be right on a GPU: conversion, mixed precision, several processes and exported files.

Each check is a row: how far off something is, or without a value and with a note that says why it failed. All of them
run on a CPU, too, where they are right for certain, so that the tests can run them.
"""

from __future__ import annotations

import contextlib
import copy
import functools
import importlib.util
import math
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from mmengine.optim import build_optim_wrapper
from mmengine.structures import PixelData
from mmseg.registry import MODELS
from mmseg.structures import SegDataSample
from mmseg.utils import register_all_modules
from torch import Tensor, nn

from ..deploy.convert import HEADROOM, convert_segmentor, switch_to_deploy, synthetic_images
from ..deploy.export import DTYPES, TARGETS, export_segmentor
from ..deploy.graph import InferenceGraph, fold_norms
from ..models.classifier import RepVGGClassifier
from ..models.variants import Variant, get_variant
from ..runtime.precision import PRECISIONS
from ..runtime.segmenter import Segmenter
from ..workflows.config import build_segmentor, load_config
from .report import Row

DEVIATION, LOSS, DISAGREEMENT = 'largest deviation', 'loss after a step', 'pixels that differ'


def device() -> str:
    """Return where the checks run."""
    return 'cuda' if torch.cuda.is_available() else 'cpu'


def checked(labels: tuple[str, str, str], metric: str, unit: str, measure: Callable[[], float], limit: float) -> Row:
    """Return the figure of a check as a row, or why it failed."""
    try:
        value = measure()
    except Exception as error:  # each library has its own, and the other checks still run
        note = (' '.join(str(error).split()) or type(error).__name__)[:300]
        return Row(*labels, metric, None, unit, {'note': f'FAILED: {note}'})
    if not value <= limit:  # written so that NaN fails
        return Row(*labels, metric, None, unit, {'note': f'FAILED: {value:.3g}, where {limit:.3g} is allowed'})
    return Row(*labels, metric, value, unit, {'allowed': limit} if math.isfinite(limit) else {})


@contextlib.contextmanager
def without_tf32() -> Iterator[None]:
    """Let products and convolutions of float32 be of float32, which GPUs round to TF32 by default."""
    places: tuple[Any, ...] = (torch.backends.cuda.matmul, torch.backends.cudnn)
    before = [place.allow_tf32 for place in places]
    try:
        for place in places:
            place.allow_tf32 = False
        yield
    finally:
        for place, value in zip(places, before, strict=True):
            place.allow_tf32 = value


# ---- conversion


@dataclass(frozen=True)
class Way:
    """How a network runs."""

    precision: str
    channels_last: bool = False
    compiled: bool = False

    @property
    def possible(self) -> bool:
        """Whether this machine computes so, at a speed that does not stop everything else."""
        on_gpu = device() == 'cuda'
        return on_gpu or not (self.compiled or not PRECISIONS[self.precision].fast_on_this_cpu())

    def deviation(self, model: nn.Module, images: Tensor, exact: Tensor) -> float:
        """Return how far the output of a copy of `model` is from `exact`, relative to the largest magnitude."""
        dtype = DTYPES[self.precision]
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        model = copy.deepcopy(model).to(dtype).to(memory_format=layout)
        run = torch.compile(model) if self.compiled else model
        with torch.inference_mode(), without_tf32():
            found = run(images.to(dtype=dtype, memory_format=layout)).double()
        return float((found - exact).abs().max() / exact.abs().max())


WAYS = {
    'fp32': Way('fp32'),
    'fp32 channels_last': Way('fp32', channels_last=True),
    'fp16': Way('fp16'),
    'fp16 channels_last': Way('fp16', channels_last=True),
    'bf16': Way('bf16'),
    'bf16 channels_last': Way('bf16', channels_last=True),
}
COMPILED = {'fp32 compiled': Way('fp32', compiled=True)}


def conversion(archs: Sequence[str | Variant], size: tuple[int, int], ways: Mapping[str, Way] = WAYS) -> list[Row]:
    """Compare the deployed form of each classifier with its original in float64, in every way that it may run.

    The original, run in the same precision, is off as well by rounding: ten times that is allowed.
    """
    rows = []
    for arch in archs:
        original = _settled(RepVGGClassifier(arch, num_classes=100).to(device()), size)
        converted = switch_to_deploy(original)
        images = torch.randn(2, 3, *size, device=device())
        with torch.inference_mode():
            exact = copy.deepcopy(original).double()(images.double())
        for name, way in ways.items():
            if way.possible:
                rounding = Way(way.precision).deviation(original, images, exact)
                labels = get_variant(arch).name, 'conversion', f'{device()} {name}'
                measure = functools.partial(way.deviation, converted, images, exact)
                limit = max(PRECISIONS[way.precision].max_rel, HEADROOM * rounding)
                rows.append(checked(labels, DEVIATION, '', measure, limit))
    return rows


def _settled(model: nn.Module, size: tuple[int, int]) -> nn.Module:
    """Let the norms have the statistics of what they see, as after a training; return the model in eval mode."""
    model.train()
    with torch.no_grad():
        for _ in range(8):
            model(torch.randn(4, 3, *size, device=device()))
    return model.eval()


# ---- training


def training(config: str, size: tuple[int, int], batch: int = 2) -> list[Row]:
    """Take two steps of the config's training in each precision; AmpOptimWrapper scales its gradients."""
    register_all_modules()
    cfg = load_config(config)
    cfg.model.backbone.init_cfg = None
    wrappers = {'fp32': 'OptimWrapper', 'bf16 autocast': 'AutocastOptimWrapper'}
    if device() == 'cuda':  # mmengine's refuses the CPU
        wrappers['fp16, GradScaler'] = 'AmpOptimWrapper'
    return [
        checked(
            (Path(config).stem, 'training step', f'{device()} {name}'), LOSS, '',
            functools.partial(_steps, cfg, wrapper, size, batch), 1e3,
        )
        for name, wrapper in wrappers.items()
    ]  # fmt: skip


def _steps(cfg: Any, wrapper: str, size: tuple[int, int], batch: int) -> float:
    torch.manual_seed(0)
    model = MODELS.build(copy.deepcopy(cfg.model)).to(device()).to(memory_format=torch.channels_last).train()
    optimizer = build_optim_wrapper(model, {**cfg.optim_wrapper, 'type': wrapper})
    classes = model.decode_head.num_classes
    images = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8)
    labels = torch.randint(0, classes, (batch, 1, *size))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label), metainfo={'img_shape': size}) for label in labels]
    weight = next(model.backbone.parameters())
    before = weight.detach().clone()
    for _ in range(2):
        losses = model.train_step({'inputs': list(images), 'data_samples': samples}, optimizer)
    if torch.equal(weight, before):
        raise ValueError('the steps did not change the first weight of the backbone')
    return float(losses['loss'])


def processes(config: str, folder: Path) -> list[Row]:
    """Train by the command in one process, and in two if two GPUs are there: DDP, on GPUs with nccl and SyncBN."""
    rows = []
    data = folder / 'data'
    small = [
        'data_root=' + str(data),
        'train_cfg.max_iters=4',
        'train_cfg.val_interval=4',
        'train_dataloader.batch_size=2',
    ]
    draw = ['repvgg_seg', 'demo-data', '--out', str(data), '--train', '8', '--val', '2']
    for number in range(1, max(1, min(2, torch.cuda.device_count())) + 1):
        work_dir = folder / f'processes{number}'
        commands = (
            [] if data.exists() else [['repvgg_seg', 'demo-data', '--out', str(data), '--train', '8', '--val', '2']]
        )
        launch = ['torch.distributed.run', '--standalone', '--nproc-per-node', str(number), '-m', 'repvgg_seg', 'train']
        options = ['--work-dir', str(work_dir), '--launcher', 'pytorch', '--amp', '--cfg-options', *small]
        commands = [*([draw] if number == 1 else []), [*launch, config, *options]]
        labels = Path(config).stem, 'training by the command', f'{device()} {number} process{"es" * (number > 1)}'
        rows.append(checked(labels, 'exit status', '', functools.partial(_run, commands), 0))
    return rows


def _run(commands: Sequence[Sequence[str]]) -> float:
    for command in commands:
        done = subprocess.run([sys.executable, '-m', *command], capture_output=True, text=True, timeout=300)
        if done.returncode:
            raise ValueError(f'{" ".join(command)} ended with {done.returncode}: {done.stderr[-200:]}')
    return 0.0


# ---- files


def exported(config: str, size: tuple[int, int], folder: Path) -> list[Row]:
    """Run exported files by Segmenter on this device, and compare their masks with those of torch."""
    segmentor = convert_segmentor(_settled_segmentor(config, size))
    images = synthetic_images(size)
    with torch.inference_mode(), without_tf32():
        graph = InferenceGraph(fold_norms(segmentor).to(device()))
        expected = graph(images.to(device())).cpu()
    rows = []
    kinds = {'onnx': ('onnxruntime', 'fp32', 'fp16'), 'exported-program': ('torch', 'fp32', 'bf16')}
    for to, engine, precision in ((to, engine, each) for to, (engine, *rest) in kinds.items() for each in rest):
        if any(importlib.util.find_spec(name) is None for name in TARGETS[to].packages):
            continue
        path = folder / f'{engine}_{precision}{TARGETS[to].suffix}'

        def differing(path: Path = path, to: str = to, engine: str = engine, precision: str = precision) -> float:
            _export(segmentor, path, to, size, precision)
            segmenter = Segmenter(path, backend=engine, device=device(), trust=True)
            masks = torch.stack([torch.from_numpy(segmenter(image.numpy())) for image in images])
            return 100 * float((masks != expected).double().mean())

        labels = path.name, 'Segmenter', f'{engine} {device()}'
        rows.append(checked(labels, DISAGREEMENT, '%', differing, 0.1 if precision == 'fp32' else 5.0))
    if device() == 'cuda' and importlib.util.find_spec('tensorrt'):
        path = folder / 'tensorrt.onnx'

        def by_tensorrt() -> float:
            _export(segmentor, path, 'onnx', size, 'fp32')
            masks = torch.cat([_tensorrt(path, image[None].cuda(), expected[:1]) for image in images]).cpu()
            return 100 * float((masks != expected).double().mean())

        rows.append(checked((path.name, 'engine', 'TensorRT cuda'), DISAGREEMENT, '%', by_tensorrt, 0.1))
    return rows


def _settled_segmentor(config: str, size: tuple[int, int]) -> nn.Module:
    segmentor: Any = build_segmentor(load_config(config)).to(device())
    _settled(segmentor.backbone, size)
    return segmentor.cpu()


def _export(segmentor: Any, path: Path, to: str, size: tuple[int, int], precision: str) -> None:
    classes = [f'class {number}' for number in range(segmentor.decode_head.num_classes)]
    palette = [[number % 256] * 3 for number in range(len(classes))]
    source = {'file': 'random', 'sha256': ''}
    export_segmentor(
        segmentor, path, to=to, size=size, precision=precision, classes=classes, palette=palette, source=source
    )


def _tensorrt(path: Path, images: Tensor, like: Tensor) -> Tensor:
    """Build an engine from an ONNX file, run it on `images` and return its output, of the shape of `like`."""
    import tensorrt

    logger = tensorrt.Logger(tensorrt.Logger.ERROR)
    builder = tensorrt.Builder(logger)
    network = builder.create_network(1 << int(tensorrt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = tensorrt.OnnxParser(network, logger)
    if not parser.parse(path.read_bytes()):
        raise ValueError(f'TensorRT cannot read {path.name}: {parser.get_error(0)}')
    engine = tensorrt.Runtime(logger).deserialize_cuda_engine(
        builder.build_serialized_network(network, builder.create_builder_config())
    )
    context = engine.create_execution_context()
    names = [engine.get_tensor_name(number) for number in range(engine.num_io_tensors)]
    result = torch.empty(like.shape, dtype=like.dtype, device='cuda')
    for name in names:
        is_input = engine.get_tensor_mode(name) == tensorrt.TensorIOMode.INPUT
        context.set_tensor_address(name, (images.contiguous() if is_input else result).data_ptr())
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    if not context.execute_async_v3(stream.cuda_stream):
        raise ValueError(f'TensorRT did not run {path.name}')
    stream.synchronize()
    return result
