"""How the accuracy of finished pretrainings grew, and that their deployed forms have it too."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..apps.pretrain_imagenet import config_of, evaluate
from ..weights.checkpoint_io import read_checkpoint
from .machine import describe_machine


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `tools/benchmark.py pretraining`."""
    parser.add_argument('work_dirs', nargs='+', type=Path, help='work directories of tools/pretrain_imagenet.py')
    parser.add_argument('--data-root', required=True, help='the data that they were trained on')


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Read and evaluate what the command line names."""
    return compare_pretrainings(args.work_dirs, args.data_root)


def compare_pretrainings(work_dirs: Sequence[Path], data_root: str) -> dict[str, Any]:
    """Read the top-1 of each epoch from the logs, and evaluate the final weights before and after conversion.

    Returns plain data: by work directory its settings, top-1 by epoch of the weights and of their average, and top-1
    and top-5 of both forms.

    Raises:
        ValueError: one holds no finished pretraining.
    """
    trainings = {}
    for work_dir in work_dirs:
        weights = next(iter(sorted(work_dir.glob('*-pretrain.pth'))), None)
        if weights is None:
            raise ValueError(f'{work_dir} holds no finished pretraining: --resume it with tools/pretrain_imagenet.py')
        meta = read_checkpoint(weights)['meta']
        options = {
            'data_root': data_root,
            'model.arch': meta['arch'],
            'val_dataloader.dataset.resolution': meta['resolution'],
            'val_dataloader.num_workers': 0,
        }
        cfg = config_of(meta['recipe'], options)
        results = evaluate(cfg, str(weights), deploy=True, work_dir=str(work_dir / 'evaluation'))
        trainings[work_dir.name] = {
            **{key: value for key, value in meta.items() if key not in ('top1', 'top5', 'averaged', 'classes')},
            'top1': _curve(work_dir, 'accuracy/top1'),
            'top1_averaged': _curve(work_dir, 'ema/accuracy/top1'),
            'final': results[meta['resolution']],
        }
    return {'trainings': trainings, **describe_machine('torchvision', 'onedl-mmengine')}


def _curve(work_dir: Path, name: str) -> dict[int, float]:
    """Return a metric by epoch from the logs of a work directory, of resumed runs too."""
    logs = sorted(work_dir.glob('*/vis_data/scalars.json'))
    records = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    return {record['step']: record[name] for record in records if name in record}


def table(result: dict[str, Any]) -> str:
    """Return the result as lines of text."""
    lines = []
    for name, training in result['trainings'].items():
        curve = '  '.join(f'{epoch}: {top1:.1f}' for epoch, top1 in training['top1'].items())
        forms = ', '.join(f'{form} {metrics["top1"]:.2f}' for form, metrics in training['final'].items())
        lines += [f'{name}: top-1 by epoch  {curve}', f'{name}: top-1 at the end  {forms}']
    return '\n'.join(lines)


def plot(result: dict[str, Any], path: str) -> None:
    """Draw top-1 against epochs."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), layout='constrained')
    axes = figure.add_subplot(xlabel='epoch', ylabel='top-1 on val, %')
    for name, training in result['trainings'].items():
        for key, style in (('top1', '-'), ('top1_averaged', '--')):
            epochs, top1 = zip(*training[key].items(), strict=True)
            label = f'{name}, {"averaged weights" if key.endswith("averaged") else "weights"}'
            axes.plot([int(epoch) for epoch in epochs], top1, style, marker='.', label=label)
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100)
