"""mIoU beside latency: our segmentors and mmseg's fast ones, trained on the same images by the same recipe.

All train from random weights with what the first config says: its data, crops, batches, augmentation, optimizer and
iterations. A peer keeps its own network and its own losses. A training that was interrupted goes on, and one that is
finished is not repeated.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict

from ..apps.config import add_cfg_options
from ..apps.train import prepare, train
from ..deploy.convert import convert_segmentor
from ..deploy.graph import InferenceGraph, fold_norms
from ..files import StrPath, atomic_write
from ..openmmlab.skip_unreadable import GuardedRunner
from ..workflows.config import build_segmentor, keep_only_test, load_config
from . import runtimes
from .peers import PEERS, peer_config
from .report import LATENCY, Row
from .runtimes import Candidate

MIOU = 'mIoU'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='configs of our segmentors, of one data set')
    add_cfg_options(parser)
    parser.add_argument('--peers', nargs='*', choices=PEERS, metavar='NAME', help=f'some of: {", ".join(PEERS)} (all)')
    parser.add_argument('--work-dir', default='work_dirs/accuracy', metavar='DIR', help='a folder for each training')
    parser.add_argument('--amp', action='store_true', help='train in mixed precision where the hardware has it')
    runtimes.add_arguments(parser, size=(360, 480))


def run(args: argparse.Namespace) -> list[Row]:
    """Train what is not trained yet, evaluate, and measure the latencies.

    Raises:
        FileNotFoundError: a config or the data is not there, or this mmseg does not bring a peer's config.
        ValueError: there is nothing to time, or the training counts epochs.
    """
    chosen, images = runtimes.chosen(args)
    trainings = {Path(config).stem: load_config(config, args.cfg_options) for config in args.configs}
    recipe, *_ = trainings.values()
    for name in PEERS if args.peers is None else args.peers:
        trainings[name] = peer_training(peer_config(PEERS[name]).model, recipe)
    rows, makers = [], {}
    for name, cfg in trainings.items():
        folder = Path(args.work_dir, name)
        iterations = cfg.train_cfg.get('max_iters')
        if not iterations:
            raise ValueError(f'{name} is trained by epochs: this comparison needs train_cfg.max_iters')
        cfg.model.backbone.init_cfg = None
        makers[name] = _deployed(cfg)
        last = folder / f'iter_{iterations}.pth'
        if not last.is_file():
            train(copy.deepcopy(cfg), work_dir=str(folder), resume='latest', amp=args.amp)
        results = _evaluated(copy.deepcopy(cfg), last)
        facts = {'iterations': iterations, 'batch of the training': cfg.train_dataloader.batch_size}
        rows += [Row(name, '', '', metric, float(results[metric]), '%', facts) for metric in (MIOU, 'aAcc')]
    candidates = [Candidate(name, '', runtime, make) for name, make in makers.items() for runtime in chosen]
    return rows + runtimes.measure(candidates, images, args.runs)


def _evaluated(cfg: Config, checkpoint: Path) -> Mapping[str, float]:
    """Return the metrics on the test set; of any network, as peers have no RepVGG blocks."""
    cfg.work_dir, cfg.load_from = str(checkpoint.parent), str(checkpoint)
    keep_only_test(cfg)
    return GuardedRunner.from_cfg(prepare(cfg, 'none')).test()


def peer_training(model: ConfigDict, recipe: Config) -> Config:
    """Return the training of a peer's network by the recipe of one of our configs: its data, schedule and hooks."""
    cfg = copy.deepcopy(recipe)
    size = next(t['crop_size'] for t in cfg.train_dataloader.dataset.pipeline if 'crop_size' in t)
    cfg.model = ConfigDict(_of_classes(model, recipe.model.decode_head.num_classes))
    cfg.model.data_preprocessor = {**recipe.model.data_preprocessor, 'size': size}
    if cfg.model.decode_head.type == 'PIDHead':  # whose boundary branch has a truth of its own
        cfg.train_dataloader.dataset.pipeline.insert(-1, ConfigDict(type='GenerateEdge', edge_width=4))
    return cfg


def _of_classes(part: Any, classes: int) -> Any:
    """Return a model's config for another number of classes; weights of classes are those of Cityscapes, and go."""
    if isinstance(part, Mapping):
        kept = {key: _of_classes(value, classes) for key, value in part.items() if key != 'class_weight'}
        if kept.get('num_classes') == 19:  # not the 2 of a head of boundaries
            kept['num_classes'] = classes
        return kept
    return [_of_classes(item, classes) for item in part] if isinstance(part, (list, tuple)) else part


def _deployed(cfg: Config) -> Callable[[], InferenceGraph]:
    cfg = copy.deepcopy(cfg)
    cfg.model.auxiliary_head = None  # does not run

    def make() -> InferenceGraph:
        model = build_segmentor(cfg)
        return InferenceGraph(fold_norms(convert_segmentor(model) if cfg.model.type == 'RepVGGSegmentor' else model))

    return make


def plot(rows: Sequence[Row], path: StrPath, title: str) -> None:
    """Draw mIoU against latency as a PNG file: a panel a runtime, a point a network."""
    from matplotlib.figure import Figure

    accuracy = {row.what: row.value for row in rows if row.metric == MIOU}
    times = [row for row in rows if row.metric == LATENCY and row.value is not None]
    panels = list(dict.fromkeys(row.runtime for row in times))
    canvas = Figure(figsize=(5 * len(panels), 4), layout='constrained')
    for axes, runtime in zip(canvas.subplots(1, len(panels), sharey=True, squeeze=False)[0], panels, strict=True):
        for row in times:
            if row.runtime == runtime:
                ours = 'repvgg' in row.what
                axes.scatter(row.value, accuracy[row.what], color='C3' if ours else 'C0', marker='o' if ours else 's')
                axes.annotate(row.what, (row.value, accuracy[row.what]), (4, 4), textcoords='offset points', fontsize=8)
        axes.set_xlabel(f'{runtime}, ms an image', fontsize=8)
        axes.tick_params(labelsize=8)
        axes.set_xlim(left=0)
        axes.margins(0.15)
        axes.grid(alpha=0.3)
    canvas.axes[0].set_ylabel('mIoU, %', fontsize=8)
    canvas.suptitle(title, fontsize=9)
    with atomic_write(path) as file:
        canvas.savefig(file, format='png', dpi=110)
