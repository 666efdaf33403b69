"""Train a segmentor with a RepVGG backbone.

    python tools/train.py configs/pspnet_repvgg_a0_demo.py --amp
    torchrun --nproc-per-node 4 tools/train.py configs/pspnet_repvgg_b2_cityscapes.py --launcher pytorch

Some of the data is looked at first; "python tools/check_dataset.py CONFIG" looks at all of it. Files that cannot be
read are skipped, up to the share --cfg-options max_bad_share=0.01, and listed in unreadable_files.txt.

Checkpoints, logs, scalars.csv, pictures of each validation and the resolved config go to the work directory. Weights
are kept channels_last; turn that off with
--cfg-options custom_hooks=[].
"""

from __future__ import annotations

import argparse
import copy
import logging
import os
from collections.abc import Sequence

import torch
from mmengine.config import Config
from mmengine.logging import print_log
from mmseg.registry import MODELS
from mmseg.utils import register_all_modules
from torch import nn
from torch.nn import SyncBatchNorm
from torch.nn.modules.batchnorm import _BatchNorm

from ..cli import add_runner_options, add_training_options
from ..interruption import end_with_torchrun
from ..openmmlab.backbone import RepVGG
from ..openmmlab.runner import Runner
from ..openmmlab.skip_unreadable import GuardedRunner, max_bad_share
from ..openmmlab.watching import TRACKERS, progress, watch
from ..openmmlab.work_dir import own_work_dir
from ..runtime.precision import PRECISIONS
from ..weights.pretrained import resolve
from ..workflows.config import load_config
from ..workflows.splits import check_data, check_quickly
from ..workflows.work_dir import default_work_dir
from .config import add_config


def prepare(cfg: Config, launcher: str, *, amp: bool = False) -> Config:
    """Adapt `cfg` to the hardware that is there and return it; joins the process group of a distributed run on CPUs."""
    cfg.launcher = launcher
    end_with_torchrun()
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


def first_process(launcher: str) -> bool:
    """Whether this is the first of the processes that `launcher` started; none has joined a group yet."""
    ranks = (os.environ.get(name) for name in ('RANK', 'SLURM_PROCID', 'OMPI_COMM_WORLD_RANK'))
    return launcher == 'none' or next(filter(None, ranks), '0') == '0'


def _use_mixed_precision(cfg: Config) -> None:
    """Choose bfloat16 where the hardware computes in it, float16 on other GPUs and float32 on other CPUs.

    Segmentors are validated and tested in it as well.
    """
    on_gpu = torch.cuda.is_available()
    bfloat16 = torch.cuda.is_bf16_supported(including_emulation=False) if on_gpu else True
    if not on_gpu and not PRECISIONS['bf16'].fast_on_this_cpu():
        # Emulated, an iteration takes 12 to 27 times as long as in float32 (RepVGG-A0, 2 cores of an AVX2-only CPU).
        print_log(
            'This CPU has no bfloat16 instructions, so --amp is left out: float32, which is much faster here than '
            'emulated bfloat16. To insist on it in training: --cfg-options optim_wrapper.type=AutocastOptimWrapper',
            logger='current',
            level=logging.WARNING,
        )
        return
    if 'optim_wrapper' in cfg:
        cfg.optim_wrapper.type = 'AutocastOptimWrapper' if bfloat16 else 'AmpOptimWrapper'
    if 'backbone' in cfg.model:
        torch.set_autocast_dtype('cuda', torch.bfloat16 if bfloat16 else torch.float16)
        for loop in ('val_cfg', 'test_cfg'):
            if cfg.get(loop):
                cfg[loop].fp16 = True  # mmengine's name for autocast, in whatever type


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


def _check_norms(model: nn.Module, cfg: Config, launcher: str) -> None:
    """Refuse batches of one image where a batch norm would see a single value of each channel.

    Raises:
        ValueError: it would.
    """
    if cfg.train_dataloader.get('batch_size', 1) > 1:
        return
    several = launcher != 'none' and torch.cuda.is_available()
    kind = SyncBatchNorm if several else ()  # sees the images of all processes
    if several and cfg.get('sync_bn'):
        return
    for name, module in model.named_modules():
        first = next(module.children(), None) if isinstance(module, nn.Sequential) else None
        if not isinstance(first, nn.AdaptiveAvgPool2d) or first.output_size not in (1, (1, 1)):
            continue
        if any(isinstance(norm, _BatchNorm) and not isinstance(norm, kind) for norm in module.modules()):
            raise ValueError(
                f'train_dataloader.batch_size is 1, and the batch norm in {name} cannot learn from the one pixel that '
                'an image is pooled to: set --cfg-options train_dataloader.batch_size=2'
            )


def run_training(runner: Runner) -> Runner:
    """Train as the config of `runner` says and return it."""
    cfg = runner.cfg
    _check_batch(cfg, runner)
    if cfg.resume and not cfg.load_from:
        runner.logger.warning('%s holds no checkpoint to resume from: this run starts at iteration 0', cfg.work_dir)
    with progress(runner):
        runner.train()
    runner.logger.info('trained; the checkpoints are in %s', cfg.work_dir)
    return runner


def train(
    cfg: Config,
    *,
    work_dir: str | None = None,
    resume: str | None = None,
    overwrite: bool = False,
    amp: bool = False,
    launcher: str = 'none',
    data_check: bool = True,
    trackers: Sequence[str] = (),
    patience: int | None = None,
) -> Runner:
    """Train the segmentor of `cfg` and return the runner; `resume` is a checkpoint file or 'latest'.

    A work directory with the checkpoints of another training is refused; `overwrite` removes them. Before that, some
    of the data is looked at, unless `data_check` is off. In training, files that cannot be read are
    skipped and listed, up to `max_bad_share` of `cfg`. `trackers` and `patience`: see `openmmlab.watching.watch`.

    Raises:
        FileNotFoundError: the data, or the checkpoint to resume, is not there.
        ValueError: the config does not fit the network or the weights, or the data fits neither, or too much of it
            is unreadable.
    """
    cfg.work_dir = work_dir or default_work_dir(cfg)
    register_all_modules()
    max_bad_share(cfg)
    watch(cfg, trackers=trackers, patience=patience)
    if data_check and first_process(launcher):
        check_quickly(cfg)
    else:
        check_data(cfg, 'train_dataloader', 'val_dataloader')
    # What is wrong with the network or its weights is told before anything is written.
    with torch.device('meta'):
        model = MODELS.build(copy.deepcopy(cfg.model))
    _check_norms(model, cfg, launcher)
    if isinstance(model.backbone, RepVGG) and not resume:
        for source in model.backbone.pretrained:
            resolve(source)
    with own_work_dir(cfg, resume=resume, overwrite=overwrite, first=first_process(launcher)):
        return run_training(GuardedRunner.from_cfg(prepare(cfg, launcher, amp=amp)))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config(parser)
    parser.add_argument(
        '--no-data-check',
        action='store_true',
        help='start without a look at masks and sizes: for pipelines that make labels of their own',
    )
    parser.add_argument(
        '--log',
        nargs='+',
        default=[],
        choices=TRACKERS,
        help='also log figures and pictures to these trackers (default: none)',
    )
    parser.add_argument(
        '--patience', type=int, metavar='N', help='end the training after N validations without a better mIoU'
    )
    add_training_options(parser)
    add_runner_options(parser, work_dir='work_dirs/NAME_OF_CONFIG')


def main(args: argparse.Namespace) -> None:
    """Train."""
    train(
        load_config(args.config, args.cfg_options),
        work_dir=args.work_dir,
        resume=args.resume,
        overwrite=args.overwrite,
        amp=args.amp,
        launcher=args.launcher,
        data_check=not args.no_data_check,
        trackers=args.log,
        patience=args.patience,
    )
