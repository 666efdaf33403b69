"""Plain and folded heads, in inference and in training."""

from __future__ import annotations

import argparse
import copy
import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.nn import functional as F

from ..cli import image_size
from ..deploy.convert import convert_segmentor
from ..deploy.export import DTYPES
from ..deploy.graph import InferenceGraph
from ..models.variants import get_variant
from ..openmmlab.heads import fold_heads, unfolded
from ..timing import measure_latency
from ..workflows.config import build_segmentor, load_config
from . import runtimes
from .report import LATENCY, Row, speed_ups, timed
from .runtimes import Candidate, Runtime

STEP = 'training step'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='configs of segmentors with a PSP or UPer head')
    parser.add_argument('--arch', metavar='NAME', help='another backbone in all of them, such as RepVGG-A0')
    parser.add_argument('--channels', type=int, metavar='N', help='another width of the decode head in all of them')
    parser.add_argument(
        '--train-size', type=image_size, default=(256, 512), metavar='HEIGHTxWIDTH', help='crop size (default: 256x512)'
    )
    parser.add_argument(
        '--train-batch', type=int, default=2, metavar='N', help='images of a training step, 0: no training (default: 2)'
    )
    runtimes.add_arguments(parser, runs=5)


def run(args: argparse.Namespace) -> list[Row]:
    """Measure the latencies of network and head, the training step in torch, and what folding gains.

    Raises:
        ValueError: a config has no head that can be folded, or there is nothing to time.
    """
    chosen, images = runtimes.chosen(args)
    if min(*args.train_size, args.train_batch + 1) < 1:
        raise ValueError('--train-size starts at 1x1 and --train-batch at 0')
    candidates, steps = [], []
    for config in args.configs:
        name = Path(config).stem
        forms = build_forms(load_config(config), arch=args.arch, channels=args.channels)
        for form, segmentor in forms.items():
            converted = convert_segmentor(segmentor)
            makers: dict[str, Callable[[], Any]] = {
                name: functools.partial(lambda model: InferenceGraph(copy.deepcopy(model)).eval(), converted),
                f'{name}, head': functools.partial(HeadGraph, converted, args.size),
            }
            candidates += [Candidate(what, form, runtime, make) for what, make in makers.items() for runtime in chosen]
        if args.train_batch:
            steps += _training(name, forms, args, [runtime for runtime in chosen if runtime.engine == 'torch'])
    rows = runtimes.measure(candidates, images, args.runs)
    times = [row for row in rows if row.metric == LATENCY] + steps
    gained = speed_ups(times, lambda row: row.variant == 'plain', same=('what', 'runtime'))
    return [*gained, *steps, *rows]


def build_forms(cfg: Config, *, arch: str | None = None, channels: int | None = None) -> dict[str, nn.Module]:
    """Return the segmentor of `cfg`, random weights, with its plain and with its folded heads.

    Raises:
        ValueError: it has no head that can be folded, or `arch` is unknown.
    """
    cfg = unfolded(cfg)
    heads = [head for head in (cfg.model.decode_head, cfg.model.get('auxiliary_head')) if head]
    if arch:
        widths = get_variant(arch).channels[1:]
        cfg.model.backbone.arch = arch
        for head in heads:
            index = head.in_index
            head.in_channels = widths[index] if isinstance(index, int) else [widths[i] for i in index]
    if channels:
        cfg.model.decode_head.channels = channels
    plain = build_segmentor(cfg)
    folded = copy.deepcopy(plain)
    if not any(report.folded for report in fold_heads(folded)):
        raise ValueError(f'{cfg.filename} has no PSP or UPer head to fold')
    return {'plain': plain, 'folded': folded}


class HeadGraph(nn.Module):
    """The decode head of a segmentor as a graph: uint8 images (N, H, W, 3) -> logits (N, classes, h, w).

    The maps that it reads are the image itself, shrunk to their size and repeated to their number of channels, which
    costs next to nothing.
    """

    def __init__(self, segmentor: Any, size: tuple[int, int]) -> None:
        super().__init__()
        maps = copy.deepcopy(segmentor.backbone).to('meta')(torch.empty(1, 3, *size, device='meta'))
        self.shapes = [one.shape[1:] for one in maps]
        self.head = copy.deepcopy(segmentor.decode_head).eval()

    def cast(self, dtype: torch.dtype) -> HeadGraph:
        """Convert the parameters, in place; return self."""
        return self.to(dtype)

    def forward(self, images: Tensor) -> Tensor:
        grey = images[..., :1].permute(0, 3, 1, 2).to(next(self.parameters()).dtype) / 255
        return self.head([F.interpolate(grey, (h, w)).expand(-1, channels, -1, -1) for channels, h, w in self.shapes])


def _training(name: str, forms: Mapping[str, Any], args: argparse.Namespace, chosen: Sequence[Runtime]) -> list[Row]:
    """Time a step of SGD with mmseg's own loss: forward, backward and update, channels_last."""
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    images = torch.rand(args.train_batch, 3, *args.train_size, device=device).to(memory_format=torch.channels_last)
    classes = forms['plain'].decode_head.num_classes
    labels = torch.randint(0, classes, (args.train_batch, 1, *args.train_size), device=device)
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]

    def step(model: Any, optimizer: torch.optim.Optimizer, dtype: torch.dtype) -> None:
        with torch.autocast(device, dtype, enabled=dtype is not torch.float32):
            loss, _ = model.parse_losses(model.loss(images, samples))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    rows = []
    for runtime in chosen:
        if not runtime.missing:
            steps = {}
            for form, segmentor in forms.items():
                model = copy.deepcopy(segmentor).to(device).to(memory_format=torch.channels_last).train()
                optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
                steps[form] = functools.partial(step, model, optimizer, DTYPES[runtime.precision])
            facts = {'size': 'x'.join(map(str, args.train_size)), 'batch': args.train_batch}
            latencies = measure_latency(steps, runs=args.runs)
            rows += [timed(latency, name, form, runtime.name, STEP, **facts) for form, latency in latencies.items()]
    return rows
