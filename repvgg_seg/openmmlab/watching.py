"""What one watches a training by: pictures at each validation, figures as CSV, a progress bar, and trackers."""

from __future__ import annotations

import csv
import importlib.util
import logging
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import mmcv
import numpy as np
from mmengine.config import Config
from mmengine.dist import is_main_process, master_only
from mmengine.hooks import Hook
from mmengine.runner import Runner
from mmengine.visualization import BaseVisBackend
from mmseg.registry import HOOKS, VISBACKENDS
from mmseg.structures import SegDataSample
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from .work_dir import PICTURES, SCALARS

# The name of a tracker -> what mmengine calls it, and the package that it needs.
TRACKERS = {
    'tensorboard': ('TensorboardVisBackend', 'tensorboard'),
    'wandb': ('WandbVisBackend', 'wandb'),
    'mlflow': ('MLflowVisBackend', 'mlflow'),
}


def watch(cfg: Config, *, trackers: Sequence[str] = (), patience: int | None = None) -> None:
    """Let the training of `cfg` write a CSV file and pictures, follow it by `trackers`, and stop it early.

    `patience` is the number of validations in a row without a better mIoU after which it ends.

    Raises:
        ValueError: the package of a tracker is not installed, or there is no validation to be patient about.
    """
    for name in trackers:
        kind, package = TRACKERS[name]
        if importlib.util.find_spec(package) is None:
            raise ValueError(f'--log {name} needs the package {package}: python -m pip install {package}')
        if kind not in [backend['type'] for backend in cfg.visualizer.vis_backends]:
            cfg.visualizer.vis_backends.append({'type': kind})
    cfg.visualizer.vis_backends.append({'type': 'CSVVisBackend'})
    hooks = list(cfg.get('custom_hooks') or ())
    if cfg.get('val_dataloader'):
        hooks.append({'type': 'ValidationPicturesHook'})
    if patience is not None:
        if not cfg.get('val_dataloader') or patience < 1:
            raise ValueError(f'--patience {patience} cannot be met: it counts validations, at least one')
        hooks.append({'type': 'EarlyStoppingHook', 'monitor': 'mIoU', 'rule': 'greater', 'min_delta': 0.001,
                      'patience': patience})  # fmt: skip
    cfg.custom_hooks = hooks


@VISBACKENDS.register_module()
class CSVVisBackend(BaseVisBackend):
    """Appends every scalar that is logged to scalars.csv of the work directory: a row of step, name and value."""

    def _init_env(self) -> None:
        # Of WORK_DIR/START/vis_data, where mmengine keeps what belongs to one start: a resumed training goes on here.
        self._path = Path(self._save_dir).parents[1] / SCALARS
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if not self._path.exists():
            self._append([('step', 'name', 'value')])

    def _append(self, rows: Sequence[Sequence[object]]) -> None:
        if not hasattr(self, '_path'):
            self._init_env()
        with self._path.open('a', newline='', encoding='utf-8') as file:
            csv.writer(file).writerows(rows)

    @property
    def experiment(self) -> CSVVisBackend:
        """What a caller draws with: itself."""
        return self

    def add_scalar(self, name: str, value: Any, step: int = 0, **kwargs: Any) -> None:
        """Append one figure."""
        self.add_scalars({name: value}, step)

    def add_scalars(
        self, scalar_dict: Mapping[str, Any], step: int = 0, file_path: str | None = None, **kwargs: Any
    ) -> None:
        """Append figures; `scalar_dict` may name the step."""
        step = int(scalar_dict.get('step', step))
        self._append([(step, name, float(value)) for name, value in scalar_dict.items() if name != 'step'])


@HOOKS.register_module()
class ValidationPicturesHook(Hook):
    """At each validation, draws some of its images: as it is, the truth over it, the prediction over it.

    They are the same ones each time, spread over the set. They go to `validation/STEP/` of the work directory as JPEG
    files, and to the trackers.

    Args:
        count: number of images.
        width: largest width of each of the three parts, in pixels.
    """

    priority = 'LOW'

    def __init__(self, count: int = 4, width: int = 640) -> None:
        self.count, self.width = count, width

    @master_only
    def after_val_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: Sequence[SegDataSample] | None = None
    ) -> None:
        """Draw the first image of the batch, if it is one of those."""
        interval = math.ceil(len(runner.val_dataloader) / self.count)
        if batch_idx % interval or not outputs:
            return
        sample = outputs[0]
        image = mmcv.imread(sample.img_path, channel_order='rgb')
        height, width = sample.pred_sem_seg.data.shape[-2:]
        image = cv2.resize(image, (width, height))
        palette = np.array(runner.visualizer.dataset_meta['palette'], np.uint8)
        parts = [image]
        for label in ('gt_sem_seg', 'pred_sem_seg'):
            if label in sample:
                mask = getattr(sample, label).data.squeeze().cpu().numpy()
                known = mask < len(palette)
                colours = np.where(known[..., None], palette[np.where(known, mask, 0)], image)
                parts.append(cv2.addWeighted(image, 0.4, colours.astype(np.uint8), 0.6, 0))
        scale = min(1.0, self.width / width)
        size = max(round(width * scale), 1), max(round(height * scale), 1)
        picture = np.concatenate([cv2.resize(part, size, interpolation=cv2.INTER_AREA) for part in parts], 1)
        name = f'{batch_idx:05d}_{Path(sample.img_path).stem[:60]}'
        folder = Path(runner.work_dir, PICTURES, f'{runner.iter:06d}')
        folder.mkdir(parents=True, exist_ok=True)
        mmcv.imwrite(picture[..., ::-1], os.fspath(folder / f'{name}.jpg'))
        for backend in runner.visualizer._vis_backends.values():
            if type(backend).__name__ in {kind for kind, _ in TRACKERS.values()}:
                backend.add_image(f'validation/{name}', picture, step=runner.iter)


@contextmanager
def progress(runner: Runner) -> Iterator[None]:
    """Show a progress bar while `runner` trains: iterations, loss, the time that is left. On a terminal only."""
    if not (is_main_process() and sys.stderr.isatty()):
        yield
        return
    columns = (BarColumn(), MofNCompleteColumn(), TextColumn('loss {task.fields[loss]}'))
    with Progress(*columns, TimeElapsedColumn(), TimeRemainingColumn(), console=Console(stderr=True)) as bar:
        streams = [handler for handler in runner.logger.handlers if type(handler) is logging.StreamHandler]
        for handler in streams:
            handler.setStream(sys.stderr)  # rich's, which writes above the bar
        try:
            runner.register_hook(_ProgressHook(bar), 'LOWEST')
            yield
        finally:
            for handler in streams:
                handler.setStream(bar.console.file)


class _ProgressHook(Hook):
    """Moves a progress bar."""

    def __init__(self, bar: Progress) -> None:
        self.bar = bar

    def before_train(self, runner: Runner) -> None:
        self.task = self.bar.add_task('', total=runner.max_iters, completed=runner.iter, loss='-')

    def after_train_iter(
        self, runner: Runner, batch_idx: int, data_batch: Any = None, outputs: dict[str, Any] | None = None
    ) -> None:
        if outputs and 'loss' in outputs:
            self.bar.update(self.task, completed=runner.iter + 1, loss=f'{float(outputs["loss"]):.3f}')
