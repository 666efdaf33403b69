"""The latency of a config's segmentor in its two forms."""

from __future__ import annotations

import functools
import platform
from dataclasses import asdict
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch

from ..deploy.convert import convert_segmentor
from ..deploy.graph import InferenceGraph
from ..doctor import cpu
from ..measure.latency import measure_latency
from .conversion import build_segmentor
from .training import load_config


def compare_forms(config: str | Path, *, size: tuple[int, int], batch: int = 1, runs: int = 10) -> dict[str, Any]:
    """Time the train-time and the deployed form of `config` on uint8 images (batch, H, W, 3) in float32.

    Returns plain data: p50 and p95 in milliseconds of each form, their ratio, and what it was measured on.

    Raises:
        ValueError: the config's model has no RepVGG block.
    """
    cfg = load_config(config)
    if cfg.model.backbone.get('deploy'):
        raise ValueError(f'{config} describes a deployed model already: name the config it was trained with')
    if min(batch, *size) < 1:
        raise ValueError(f'there is nothing to time at batch {batch} and size {size[0]}x{size[1]}')
    device = 'cuda' if torch.cuda.is_available() else 'cpu'
    original = build_segmentor(cfg).to(device).to(memory_format=torch.channels_last)
    graphs = {'train-time': InferenceGraph(original), 'deployed': InferenceGraph(convert_segmentor(original))}
    images = torch.randint(0, 256, (batch, *size, 3), dtype=torch.uint8, device=device)
    with torch.inference_mode():
        latencies = measure_latency(
            {name: functools.partial(graph, images) for name, graph in graphs.items()}, runs=runs
        )
    return {
        'config': str(config),
        'input': [batch, *size, 3],
        'latency': {name: asdict(latency) for name, latency in latencies.items()},
        'speedup': latencies['train-time'].p50_ms / latencies['deployed'].p50_ms,
        'device': torch.cuda.get_device_name()
        if device == 'cuda'
        else f'{cpu()[0]}, {torch.get_num_threads()} threads',
        'versions': {'torch': torch.__version__, 'python': platform.python_version()},
        'date': datetime.now(timezone.utc).date().isoformat(),
    }


def format_comparison(result: dict[str, Any]) -> str:
    """Return the result of `compare_forms` as a table."""
    lines = [f'{"":>12}{"p50 ms":>10}{"p95 ms":>10}']
    lines += [f'{name:>12}{t["p50_ms"]:>10.1f}{t["p95_ms"]:>10.1f}' for name, t in result['latency'].items()]
    size = 'x'.join(str(n) for n in result['input'])
    return '\n'.join([*lines, f'speed-up {result["speedup"]:.2f}x; input {size}, {result["device"]}, float32'])
