"""What mmengine's runner lacks: mixed precision and processes on the CPU, channels_last, a check of the data."""

from __future__ import annotations

import copy
import difflib
import inspect
import logging
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmseg.registry import MODELS, OPTIM_WRAPPERS
from mmseg.utils import register_all_modules
from torch import nn

from ..doctor import cpu_has_bfloat16
from ..weights.pretrained import resolve
from .checking import check_data, check_quickly
from .guard import GuardedRunner, max_bad_share
from .runner import Runner


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """Mixed precision in bfloat16 through autocast on any device: no loss scaling, which bfloat16's range does without.

    mmengine's AmpOptimWrapper refuses the CPU.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass of a training step under autocast."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield


def load_config(
    path: str | Path, options: dict[str, Any] | None = None, *, kind: str = 'segmentor', part: str = 'backbone'
) -> Config:
    """Read a config and merge `options` into it; `data_root` among them moves every data set at once.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: it is none of a `kind`, whose models have a `part`, or an option changes nothing that is in it.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'there is no config {path}')
    try:
        cfg = Config.fromfile(path)
    except SyntaxError as error:
        raise ValueError(f'{error.filename or path}, line {error.lineno}: {error.msg}') from error
    if part not in (cfg.get('model') or {}):
        raise ValueError(f'{path} is not the config of a {kind}: it has no model.{part}')
    options = options or {}
    known = sorted({*cfg, *inspect.signature(Runner).parameters, 'compile', 'sync_bn', 'data_root', 'max_bad_share'})
    for key in options:
        root = key.partition('.')[0]
        if root not in known:
            near = difflib.get_close_matches(root, known, 1)
            raise ValueError(f'{path} has no {root!r} to change' + (f': did you mean {near[0]!r}?' if near else ''))
    cfg.merge_from_dict(options)
    if 'data_root' in options:
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            if loader in cfg:
                cfg[loader].dataset.data_root = options['data_root']
    return cfg


def prepare(cfg: Config, launcher: str, *, amp: bool = False) -> Config:
    """Adapt `cfg` to the hardware that is there and return it; joins the process group of a distributed run on CPUs."""
    cfg.launcher = launcher
    if launcher == 'pytorch' and 'RANK' not in os.environ:
        raise ValueError(
            '--launcher pytorch is for processes that torchrun started: torchrun --nproc-per-node N tools/…'
        )
    distributed_on_cpu = launcher != 'none' and not torch.cuda.is_available()
    if distributed_on_cpu:
        # mmengine would call torch.cuda.set_device; a process group that exists already is kept.
        if launcher != 'pytorch':
            raise ValueError(f'several processes on CPUs are started with torchrun, not with {launcher}')
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group('gloo')
        cfg.sync_bn = None  # SyncBatchNorm has no CPU kernel
        cfg.model_wrapper_cfg = {'type': 'MMDistributedDataParallel', 'device_ids': None}
    if amp:
        _use_mixed_precision(cfg)
    if cpus := os.cpu_count():
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            if loader in cfg and cfg[loader].get('num_workers', 0) > cpus:
                cfg[loader].num_workers = cpus
    return cfg


def _first_process(launcher: str) -> bool:
    """Whether this is the first of the processes that `launcher` started; none has joined a group yet."""
    ranks = (os.environ.get(name) for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'))
    return launcher == 'none' or next(filter(None, ranks), '0') == '0'


def _use_mixed_precision(cfg: Config) -> None:
    """Choose bfloat16 where the hardware computes in it, float16 on other GPUs and float32 on other CPUs."""
    if torch.cuda.is_available():
        bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False)
        cfg.optim_wrapper.type = 'AutocastOptimWrapper' if bfloat16 else 'AmpOptimWrapper'
    elif cpu_has_bfloat16():
        cfg.optim_wrapper.type = 'AutocastOptimWrapper'
    else:
        # Emulated, an iteration takes 12 to 27 times as long as in float32 (RepVGG-A0, 2 cores of an AVX2-only CPU).
        print_log(
            'This CPU has no bfloat16 instructions, so --amp is left out: training in float32, much faster here than '
            'emulated bfloat16. To insist: --cfg-options optim_wrapper.type=AutocastOptimWrapper',
            logger='current',
            level=logging.WARNING,
        )


def _check_batch(cfg: Config, runner: Runner) -> None:
    """Say if this run's batches are not of the size that the learning rate was chosen for, and if it is scaled."""
    scaling = cfg.get('auto_scale_lr')
    if not scaling:
        return
    each, accumulated = cfg.train_dataloader.batch_size, cfg.optim_wrapper.get('accumulative_counts', 1)
    batch, expected = runner.world_size * each * accumulated, scaling.base_batch_size
    if scaling.get('enable'):
        runner.auto_scale_lr = {
            'enable': True,
            'base_batch_size': expected / accumulated,
        }  # mmengine counts one of them
        if batch != expected:
            lr = cfg.optim_wrapper.optimizer.lr
            runner.logger.warning(
                '%d images a step, where the learning rate %g is for %d: it is scaled to %g',
                batch, lr, expected, lr * batch / expected,
            )  # fmt: skip
    elif batch != expected:
        runner.logger.warning(
            'this run has batches of %d (%d processes x %d images%s), but its learning rate is for %d: scale it by %.3g'
            ' with --cfg-options auto_scale_lr.enable=True, or change train_dataloader.batch_size (of each process)',
            batch,
            runner.world_size,
            each,
            f' x {accumulated} accumulated' if accumulated > 1 else '',
            expected,
            batch / expected,
        )


def find_checkpoint(path: str | Path, *, best: bool = True) -> str:
    """Return `path`, or for a work directory its best checkpoint (unless not `best`) or else its latest.

    A folder that tools/convert_deploy.py wrote stands for its deploy.pth.

    Raises:
        FileNotFoundError: the directory holds no checkpoint.
    """
    folder = Path(path)
    if not folder.is_dir():
        return str(path)
    pointer = folder / 'last_checkpoint'  # mmengine writes a path here; only its name survives moving the directory
    latest = folder / Path(pointer.read_text().strip()).name if pointer.is_file() else folder / 'deploy.pth'
    if not latest.is_file():
        raise FileNotFoundError(f'{folder} holds no checkpoint: name a .pth file, or train first with tools/train.py')
    # A best checkpoint from beyond the latest is of an earlier, longer run in the same directory.
    candidates = [p for p in folder.glob('best_*.pth') if _step(p) <= _step(latest)] if best else []
    return str(max(candidates, key=lambda p: p.stat().st_mtime, default=latest))


def _step(checkpoint: Path) -> int:
    """Return the iteration or epoch in the name of a checkpoint."""
    numbers = re.findall(r'\d+', checkpoint.stem)
    return int(numbers[-1]) if numbers else 0


def default_work_dir(cfg: Config) -> str:
    """Return work_dirs/NAME_OF_CONFIG, or what the config says."""
    return cfg.get('work_dir') or str(Path('work_dirs', Path(cfg.filename).stem))


def resume_from(cfg: Config, resume: str | None) -> None:
    """Let `cfg` go on from `resume`: a checkpoint file, 'latest' of its work directory, or None for nothing.

    Raises:
        FileNotFoundError: there is no such checkpoint.
    """
    if not resume:
        return
    cfg.resume = True
    fresh = resume == 'latest' and not Path(cfg.work_dir, 'last_checkpoint').is_file()
    cfg.load_from = None if fresh else find_checkpoint(cfg.work_dir if resume == 'latest' else resume, best=False)
    if cfg.load_from and not Path(cfg.load_from).is_file():
        raise FileNotFoundError(f'there is no checkpoint {cfg.load_from} to resume from')


def run_training(runner: Runner) -> Runner:
    """Train as the config of `runner` says and return it."""
    cfg = runner.cfg
    _check_batch(cfg, runner)
    if cfg.resume and not cfg.load_from:
        runner.logger.warning('%s holds no checkpoint to resume from: this run starts at iteration 0', cfg.work_dir)
    runner.train()
    runner.logger.info('trained; the checkpoints are in %s', cfg.work_dir)
    return runner


def train(
    cfg: Config,
    *,
    work_dir: str | None = None,
    resume: str | None = None,
    amp: bool = False,
    launcher: str = 'none',
    data_check: bool = True,
) -> Runner:
    """Train the segmentor of `cfg` and return the runner; `resume` is a checkpoint file or 'latest'.

    Before that some of the data is looked at, unless `data_check` is off. In training, files that cannot be read are
    skipped and listed, up to `max_bad_share` of `cfg`.

    Raises:
        FileNotFoundError: the data, or the checkpoint to resume, is not there.
        ValueError: the config does not fit the network or the weights, or the data fits neither, or too much of it
            is unreadable.
    """
    cfg.work_dir = work_dir or default_work_dir(cfg)
    register_all_modules()
    max_bad_share(cfg)
    if data_check and _first_process(launcher):
        check_quickly(cfg)
    else:
        check_data(cfg, 'train_dataloader', 'val_dataloader')
    # What is wrong with the network or its weights is told before anything is written.
    with torch.device('meta'):
        MODELS.build(copy.deepcopy(cfg.model))
    init_cfg = cfg.model.backbone.get('init_cfg')
    if isinstance(init_cfg, dict) and init_cfg.get('type') == 'Pretrained' and not resume:
        resolve(init_cfg['checkpoint'])
    resume_from(cfg, resume)
    return run_training(GuardedRunner.from_cfg(prepare(cfg, launcher, amp=amp)))
