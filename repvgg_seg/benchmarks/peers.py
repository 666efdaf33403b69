"""Our segmentors beside those of mmseg that are known for their speed, in the same runtimes.

Random weights, as the latency does not depend on them. The peers are built from the configs that mmseg installs.
"""

from __future__ import annotations

import argparse
import copy
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mmseg
from mmengine.config import Config

from ..deploy.convert import convert_segmentor
from ..deploy.graph import InferenceGraph, fold_norms
from ..workflows.config import build_segmentor, load_config
from . import runtimes
from .report import Row
from .runtimes import Candidate

PEERS = {
    'PSPNet R50 d8': 'pspnet/pspnet_r50-d8_4xb2-80k_cityscapes-512x1024.py',
    'PSPNet R101 d8': 'pspnet/pspnet_r101-d8_4xb2-80k_cityscapes-512x1024.py',
    'PIDNet-S': 'pidnet/pidnet-s_2xb6-120k_1024x1024-cityscapes.py',
    'DDRNet-23-slim': 'ddrnet/ddrnet_23-slim_in1k-pre_2xb6-120k_cityscapes-1024x1024.py',
    'STDC1': 'stdc/stdc1_4xb12-80k_cityscapes-512x1024.py',
    'BiSeNetV2': 'bisenetv2/bisenetv2_fcn_4xb4-160k_cityscapes-1024x1024.py',
    'Fast-SCNN': 'fastscnn/fast_scnn_8xb4-160k_cityscapes-512x1024.py',
    'SegFormer-B0': 'segformer/segformer_mit-b0_8xb1-160k_cityscapes-1024x1024.py',
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='configs of our segmentors')
    parser.add_argument(
        '--peers', nargs='*', choices=PEERS, metavar='NAME', help=f'some of: {", ".join(PEERS)} (default: all)'
    )
    runtimes.add_arguments(parser)


def run(args: argparse.Namespace) -> list[Row]:
    """Measure latencies, memory and work.

    Raises:
        FileNotFoundError: a config is not there, or this mmseg does not bring its own.
        ValueError: there is nothing to time.
    """
    chosen, images = runtimes.chosen(args)
    makers = {Path(config).stem: _ours(config) for config in args.configs}
    makers |= {name: peer(PEERS[name]) for name in (PEERS if args.peers is None else args.peers)}
    candidates = [Candidate(name, '', runtime, make) for name, make in makers.items() for runtime in chosen]
    return runtimes.measure(candidates, images, args.runs)


def _ours(config: str) -> Callable[[], InferenceGraph]:
    converted = convert_segmentor(build_segmentor(load_config(config)))
    return lambda: InferenceGraph(fold_norms(converted))


def peer(config: str) -> Callable[[], InferenceGraph]:
    """Return what makes the graph of one of the configs that mmseg installs.

    Raises:
        FileNotFoundError: this mmseg does not bring it.
    """
    cfg = peer_config(config)
    cfg.model.auxiliary_head = None
    segmentor = build_segmentor(cfg)
    return functools.partial(lambda model: InferenceGraph(fold_norms(model)), segmentor)


def peer_config(config: str) -> Config:
    """Read one of the configs that mmseg installs, for a single device and random weights.

    Raises:
        FileNotFoundError: this mmseg does not bring it.
    """
    path = Path(mmseg.__file__).parent / '.mim/configs' / config
    if not path.is_file():
        raise FileNotFoundError(f'this mmseg does not bring {config}: install onedl-mmsegmentation>=1.4 from its wheel')
    cfg = Config.fromfile(path)
    # Nothing is loaded: their init_cfg would download weights, which a backbone is given in one of two ways.
    cfg.model.pretrained = None
    for part in (cfg.model.backbone, cfg.model.backbone.get('backbone_cfg')):
        if part:
            part.init_cfg = None
            part.pop('pretrained', None)
    cfg.model = _single_device(cfg.model)
    return cfg


def _single_device(model: Any) -> Any:
    """Return a model's config with SyncBN, which is for training on several devices, replaced by BN."""
    if isinstance(model, dict):
        return type(model)({k: 'BN' if v == 'SyncBN' else _single_device(v) for k, v in model.items()})
    if isinstance(model, (list, tuple)):
        return [_single_device(item) for item in model]
    return copy.copy(model)
