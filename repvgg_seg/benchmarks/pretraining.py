"""Finished ImageNet pretrainings: how their accuracy grew, and the accuracy of their deployed forms."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from ..apps.train import prepare
from ..weights.checkpoint_io import read_checkpoint
from ..workflows.pretraining import config_of, evaluate
from .report import Row

SETTINGS = ('arch', 'recipe', 'custom_l2', 'num_classes', 'max_epochs', 'images', 'batch', 'commit')  # of a training


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        'work_dirs', nargs='+', type=Path, metavar='WORK_DIR', help='work directories of tools/pretrain_imagenet.py'
    )
    parser.add_argument('--data-root', required=True, metavar='DIR', help='the data that they were trained on')


def run(args: argparse.Namespace) -> list[Row]:
    """Read the top-1 of each epoch from the logs, and evaluate the final weights before and after conversion.

    Raises:
        ValueError: a work directory holds no finished pretraining.
    """
    rows = []
    for work_dir in args.work_dirs:
        weights = next(iter(sorted(work_dir.glob('*-pretrain.pth'))), None)
        if weights is None:
            raise ValueError(f'{work_dir} holds no finished pretraining: --resume it with tools/pretrain_imagenet.py')
        meta = read_checkpoint(weights)['meta']
        options = {
            'data_root': args.data_root,
            'model.arch': meta['arch'],
            'val_dataloader.dataset.resolution': meta['resolution'],
            'val_dataloader.num_workers': 0,
        }
        cfg = prepare(config_of(meta['recipe'], options), 'none')
        results = evaluate(cfg, str(weights), deploy=True, work_dir=str(work_dir / 'evaluation'))[meta['resolution']]
        facts = {'size': f'{meta["resolution"]}x{meta["resolution"]}'}
        settings = {key: meta[key] for key in SETTINGS if key in meta}
        rows += [
            Row(work_dir.name, f'epoch {epoch}', '', metric, value, '%', facts)
            for metric, key in (('top-1', 'accuracy/top1'), ('top-1 of averaged weights', 'ema/accuracy/top1'))
            for epoch, value in _curve(work_dir, key).items()
        ]
        rows += [
            Row(work_dir.name, form, '', f'top-{k}', metrics[f'top{k}'], '%', facts | settings)
            for form, metrics in results.items()
            for k in (1, 5)
        ]
    return rows


def _curve(work_dir: Path, name: str) -> dict[int, float]:
    """Return a metric by epoch from the logs of a work directory, of resumed runs too."""
    logs = sorted(work_dir.glob('*/vis_data/scalars.json'))
    records = [json.loads(line) for log in logs for line in log.read_text().splitlines()]
    return {record['step']: record[name] for record in records if name in record}
