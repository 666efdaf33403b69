"""ImageNet classifiers: RepVGG in both forms beside ResNets and Swin transformers.

Random weights, as throughput and memory do not depend on them.
"""

from __future__ import annotations

import argparse
import copy
import functools
import inspect

import torch
import torchvision
from torch import nn

from ..deploy.convert import switch_to_deploy
from ..models.classifier import RepVGGClassifier
from ..models.variants import VARIANTS
from . import runtimes
from .report import LATENCY, THROUGHPUT, Row, speed_ups
from .runtimes import Candidate, ImageGraph

NETWORKS = ('RepVGG-A0', 'RepVGG-A2', 'RepVGG-B1', 'RepVGG-B2', 'resnet50', 'resnet101', 'swin_t', 'swin_b')
REFERENCE = 'resnet50'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('networks', nargs='*', help=f"RepVGG's and torchvision's names (default: {' '.join(NETWORKS)})")
    runtimes.add_arguments(parser, size=(224, 224), batch=128 if torch.cuda.is_available() else 8)


def run(args: argparse.Namespace) -> list[Row]:
    """Measure images per second (of the median), latencies and memory.

    Raises:
        ValueError: a network or a runtime is unknown, or there is nothing to time.
    """
    chosen, images = runtimes.chosen(args)
    candidates = []
    for name in args.networks or NETWORKS:
        for variant, network in forms(name).items():
            make = functools.partial(lambda model: ImageGraph(copy.deepcopy(model)), network)
            candidates += [Candidate(name, variant, runtime, make) for runtime in chosen]
    rows = runtimes.measure(candidates, images, args.runs)
    times = [row for row in rows if row.metric == LATENCY and row.value]
    rates = [row.derived(THROUGHPUT, 1e3 * args.batch / row.value, 'images/s') for row in times if row.value]
    return [*rates, *speed_ups(times, lambda row: row.what == REFERENCE, same=('runtime',)), *rows]


def forms(name: str) -> dict[str, nn.Module]:
    """Build one network in eval mode; a RepVGG in its two forms.

    Raises:
        ValueError: there is no such network.
    """
    if name in VARIANTS:
        original = RepVGGClassifier(name).eval()
        return {'train-time': original, 'deployed': switch_to_deploy(original)}
    build = getattr(torchvision.models, name, None)
    if not inspect.isfunction(build) or name not in torchvision.models.list_models(module=torchvision.models):
        raise ValueError(f'there is no network {name!r}: name one of RepVGG ({", ".join(VARIANTS)}) or torchvision')
    return {'': build(weights=None).eval()}
