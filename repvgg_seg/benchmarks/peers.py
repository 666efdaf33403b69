"""Our segmentors beside those of mmseg that are known for speed: the same runtimes, in turn, in one run.

Random weights, as the latency does not depend on them. The peers are built from the configs that mmseg installs.
"""

from __future__ import annotations

import argparse
import copy
import functools
import tempfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import mmseg
from mmengine.config import Config

from ..apps.config import build_segmentor, load_config
from ..deploy.convert import convert_segmentor
from ..deploy.graph import InferenceGraph, fold_norms
from . import runtimes
from .latency import PACKAGES
from .machine import describe_machine
from .plots import bar_chart
from .roofline import operations
from .runtimes import Candidate
from .timing import measure_latency

PEERS = {
    'PSPNet R50 d8': 'pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py',
    'PIDNet-S': 'pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py',
    'DDRNet-23-slim': 'ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py',
    'STDC1': 'stdc/stdc1_4xb12-80k_cityscapes-512x1024.py',
    'BiSeNetV2': 'bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py',
    'Fast-SCNN': 'fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py',
    'SegFormer-B0': 'segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py',
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `tools/benchmark.py peers`."""
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='configs of our segmentors')
    parser.add_argument('--peers', nargs='*', choices=PEERS, metavar='NAME', help=f'some of: {", ".join(PEERS)} (all)')
    runtimes.add_arguments(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time what the command line asks for.

    Raises:
        FileNotFoundError: a config is not there, or this mmseg does not bring its own.
        ValueError: there is nothing to time.
    """
    runtimes.check_input(args.size, args.batch, args.runs)
    chosen, missing = runtimes.chosen(args.runtimes)
    images = runtimes.random_images(args.size, args.batch)
    makers = {Path(config).stem: _ours(config) for config in args.configs}
    makers |= {name: _theirs(PEERS[name]) for name in (PEERS if args.peers is None else args.peers)}
    candidates = {
        f'{name} | {runtime.name}': Candidate(make, runtime) for name, make in makers.items() for runtime in chosen
    }
    with tempfile.TemporaryDirectory(prefix='benchmark-') as folder:
        paths, failed = runtimes.write_files(candidates, images, Path(folder))
        candidates = {name: candidate for name, candidate in candidates.items() if name not in failed}
        calls, memory = runtimes.open_all(candidates, images, paths)
        latencies = measure_latency(calls, runs=args.runs)
    return {
        'input': list(images.shape),
        'gflop': {name: operations(make(), images) / 1e9 for name, make in makers.items()},
        'latency': {
            name: {
                runtime.name: {
                    **asdict(latencies[f'{name} | {runtime.name}']),
                    'peak_memory_mib': memory[f'{name} | {runtime.name}'],
                }
                for runtime in chosen
                if f'{name} | {runtime.name}' in candidates
            }
            for name in makers
        },
        'not_measured': missing | failed,
        **describe_machine(*PACKAGES),
    }


def _ours(config: str) -> Callable[[], InferenceGraph]:
    converted = convert_segmentor(build_segmentor(load_config(config)))
    return lambda: InferenceGraph(fold_norms(converted))


def _theirs(config: str) -> Callable[[], InferenceGraph]:
    path = Path(mmseg.__file__).parent / '.mim/configs' / config
    if not path.is_file():
        raise FileNotFoundError(f'this mmseg does not bring {config}: install onedl-mmsegmentation>=1.4 from its wheel')
    cfg = Config.fromfile(path)
    # Nothing is loaded: their init_cfg would download weights, which a backbone is given in one of two ways.
    cfg.model.pretrained = None
    cfg.model.auxiliary_head = None
    for part in (cfg.model.backbone, cfg.model.backbone.get('backbone_cfg')):
        if part:
            part.init_cfg = None
            part.pop('pretrained', None)
    cfg.model = _single_device(cfg.model)
    segmentor = build_segmentor(cfg)
    return functools.partial(lambda model: InferenceGraph(fold_norms(model)), segmentor)


def _single_device(model: Any) -> Any:
    """Return a model's config with SyncBN, which is for training on several devices, replaced by BN."""
    if isinstance(model, dict):
        return type(model)({k: 'BN' if v == 'SyncBN' else _single_device(v) for k, v in model.items()})
    if isinstance(model, (list, tuple)):
        return [_single_device(item) for item in model]
    return copy.copy(model)


def table(result: dict[str, Any]) -> str:
    """Return the result as lines of text."""
    names = _runtimes(result)
    width = max(len(name) for name in names) + 2
    lines = [f'{"median ms":<34}{"GFLOP":>8}' + ''.join(name.rjust(width) for name in names)]
    for model, latencies in result['latency'].items():
        values = ''.join(
            (f'{latencies[name]["p50_ms"]:.1f}' if name in latencies else '-').rjust(width) for name in names
        )
        lines.append(f'{model:<34}{result["gflop"][model]:>8.1f}{values}')
    lines += [f'not measured: {name} ({why})' for name, why in result['not_measured'].items()]
    size = 'x'.join(str(n) for n in result['input'])
    return '\n'.join([*lines, f'input {size}, {result["device"]}, {result["threads"]} threads'])


def _runtimes(result: dict[str, Any]) -> list[str]:
    """Return the runtimes that ran at least one model, in order."""
    return list(dict.fromkeys(name for latencies in result['latency'].values() for name in latencies))


def plot(result: dict[str, Any], path: str) -> None:
    """Draw the medians, one group a runtime."""
    groups = {
        runtime: {model: times[runtime]['p50_ms'] for model, times in result['latency'].items() if runtime in times}
        for runtime in _runtimes(result)
    }
    title = f'{"x".join(map(str, result["input"][1:3]))}, {result["device"]}'
    bar_chart(groups, path, title=title, unit='median latency, ms')
