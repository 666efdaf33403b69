"""Throughput and memory of RepVGG classifiers in both forms beside ResNets and Swin transformers."""

from __future__ import annotations

import argparse
import functools
import inspect
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torchvision
from torch import nn

from ..deploy.convert import switch_to_deploy
from ..models.classifier import RepVGGClassifier
from ..models.variants import VARIANTS
from .machine import describe_machine
from .memory import peak_memory
from .timing import measure_latency

NETWORKS = ('RepVGG-A0', 'RepVGG-A2', 'RepVGG-B1', 'RepVGG-B2', 'resnet50', 'resnet101', 'swin_t', 'swin_b')
REFERENCE = 'resnet50'


@dataclass(frozen=True)
class Setting:
    """One way to run a network."""

    dtype: torch.dtype
    memory_format: torch.memory_format
    compiled: bool = False


SETTINGS = {
    'fp32': Setting(torch.float32, torch.contiguous_format),
    'fp32-channels_last': Setting(torch.float32, torch.channels_last),
    'bf16-channels_last': Setting(torch.bfloat16, torch.channels_last),
    'fp16-channels_last': Setting(torch.float16, torch.channels_last),
    'fp16-channels_last-compiled': Setting(torch.float16, torch.channels_last, True),
}
CPU_SETTINGS = ('fp32', 'bf16-channels_last')  # float16 is emulated on most CPUs


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `tools/benchmark.py classifiers`."""
    parser.add_argument('networks', nargs='*', help=f"RepVGG's and torchvision's names (default: {' '.join(NETWORKS)})")
    parser.add_argument('--size', type=int, default=224, help='height and width of the images (default: 224)')
    parser.add_argument('--batch', type=int, help='images at once (default: 128 on a GPU, 8 on a CPU)')
    parser.add_argument('--runs', type=int, default=10, help='counted runs of each network (default: 10)')
    parser.add_argument(
        '--settings', nargs='+', choices=SETTINGS, help='default: all on a GPU, fp32 and bf16-channels_last on a CPU'
    )


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time what the command line asks for."""
    on_gpu = torch.cuda.is_available()
    return compare_classifiers(
        args.networks or NETWORKS,
        size=args.size,
        batch=args.batch or (128 if on_gpu else 8),
        runs=args.runs,
        settings=args.settings or (tuple(SETTINGS) if on_gpu else CPU_SETTINGS),
    )


def compare_classifiers(
    networks: Sequence[str], *, size: int = 224, batch: int = 8, runs: int = 10, settings: Sequence[str] = CPU_SETTINGS
) -> dict[str, Any]:
    """Time the networks on random images (batch, 3, size, size), with random weights, in turn within each setting.

    Returns plain data: for each setting and network images per second (of the median), milliseconds and peak memory,
    weights included, and what it was measured on.

    Raises:
        ValueError: there is no such network.
    """
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    models = {form: model.to(device) for name in networks for form, model in _forms(name).items()}
    figures: dict[str, Any] = {}
    for name in settings:
        setting = SETTINGS[name]
        images = torch.rand(batch, 3, size, size, device=device, dtype=setting.dtype)
        images = images.contiguous(memory_format=setting.memory_format)
        candidates = {}
        for form, model in models.items():
            model.to(dtype=setting.dtype).to(memory_format=setting.memory_format)
            call = torch.compile(model) if setting.compiled else model
            candidates[form] = functools.partial(call, images)
        with torch.inference_mode():
            figures[name] = {}
            for form, candidate in candidates.items():
                candidate()  # compiles, and loads kernels, which is no part of the peak
                weights_mib = sum(p.nbytes for p in models[form].parameters()) / 2**20
                _, added_mib = peak_memory(candidate)
                figures[name][form] = {'peak_mib': None if added_mib is None else added_mib + weights_mib}
            latencies = measure_latency(candidates, runs=runs)
        for form, latency in latencies.items():
            figures[name][form] |= {'images_per_s': 1e3 * batch / latency.p50_ms, 'p50_ms': latency.p50_ms}
    return {'input': [batch, 3, size, size], 'runs': runs, 'figures': figures, **describe_machine('torchvision')}


def _forms(name: str) -> dict[str, nn.Module]:
    """Build one network in eval mode; a RepVGG in its two forms."""
    if name in VARIANTS:
        original = RepVGGClassifier(name).eval()
        return {f'{name} train-time': original, f'{name} deployed': switch_to_deploy(original)}
    build = getattr(torchvision.models, name, None)
    if not inspect.isfunction(build) or name not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(f'there is no network {name!r}: name one of RepVGG ({", ".join(VARIANTS)}) or torchvision')
    return {name: build(weights=None).eval()}


def table(result: dict[str, Any]) -> str:
    """Return the result as lines of text."""
    lines = []
    for setting, rows in result['figures'].items():
        reference = rows.get(REFERENCE, next(iter(rows.values())))['images_per_s']
        against = REFERENCE if REFERENCE in rows else next(iter(rows))
        lines.append(f'{setting:<30}{"images/s":>10}{"peak MiB":>10}{"ratio":>8}   (to {against})')
        for form, row in rows.items():
            peak = '-' if row['peak_mib'] is None else f'{row["peak_mib"]:.0f}'
            lines.append(f'{form:<30}{row["images_per_s"]:>10.1f}{peak:>10}{row["images_per_s"] / reference:>8.2f}')
    size = 'x'.join(str(n) for n in result['input'])
    return '\n'.join([*lines, f'input {size}; {result["device"]}, {result["threads"]} threads'])
