"""What mmengine's runner lacks: mixed precision and processes on the CPU, channels_last, a check of the data."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.logging import print_log
from mmengine.optim import OptimWrapper
from mmengine.runner import Runner
from mmseg.registry import HOOKS, OPTIM_WRAPPERS
from torch import nn

from ..doctor import cpu_has_bfloat16


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


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Store the model's weights channels_last, in which convolutions on CPUs and on tensor cores are fastest."""

    def before_run(self, runner: Runner) -> None:
        """Convert the model; its activations follow the weights' layout."""
        runner.model.to(memory_format=torch.channels_last)


def load_config(path: str | Path, options: dict[str, Any] | None = None) -> Config:
    """Read a config and merge `options` into it; `data_root` among them moves every data set at once.

    Raises:
        FileNotFoundError: there is no such config.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f'there is no config {path}')
    cfg = Config.fromfile(path)
    options = options or {}
    cfg.merge_from_dict(options)
    if 'data_root' in options:
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            if loader in cfg:
                cfg[loader].dataset.data_root = options['data_root']
    return cfg


def prepare(cfg: Config, launcher: str, *, amp: bool = False) -> Config:
    """Adapt `cfg` to the hardware that is there and return it; joins the process group of a distributed run on CPUs."""
    cfg.launcher = launcher
    distributed_on_cpu = launcher != 'none' and not torch.cuda.is_available()
    if distributed_on_cpu:
        # mmengine would call torch.cuda.set_device; a process group that exists already is kept.
        if not torch.distributed.is_initialized():
            torch.distributed.init_process_group('gloo')
        cfg.sync_bn = None  # SyncBatchNorm has no CPU kernel
        cfg.model_wrapper_cfg = {'type': 'MMDistributedDataParallel', 'device_ids': None}
    if amp:
        _use_mixed_precision(cfg)
    if cpus := os.cpu_count():
        for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
            if loader in cfg and cfg[loader].num_workers > cpus:
                cfg[loader].num_workers = cpus
    return cfg


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


def check_data(cfg: Config, *loaders: str) -> None:
    """Check that the folders which `loaders` of `cfg` read exist and hold files.

    Raises:
        FileNotFoundError: one does not; the message says which and what to do.
    """
    for loader in loaders:
        if loader not in cfg:
            continue
        dataset = cfg[loader].dataset
        for key, folder in dataset.get('data_prefix', {}).items():
            path = Path(dataset.get('data_root') or '', folder)
            if not folder or (path.is_dir() and any(p.is_file() for p in path.rglob('*'))):
                continue
            state = 'is empty' if path.is_dir() else 'does not exist'
            raise FileNotFoundError(
                f'no data for {loader} ({key}): {path} {state}. Put the data set there, point to it with --cfg-options '
                'data_root=DIR, or make a procedural one in Cityscapes\' layout with "python tools/make_demo_data.py".'
            )


def find_checkpoint(path: str | Path) -> str:
    """Return `path`, or for a work directory its best checkpoint or else its latest.

    Raises:
        FileNotFoundError: the directory holds no checkpoint.
    """
    folder = Path(path)
    if not folder.is_dir():
        return str(path)
    best = sorted(folder.glob('best_*.pth'), key=lambda p: p.stat().st_mtime)
    pointer = folder / 'last_checkpoint'  # mmengine writes a path here; only its name survives moving the directory
    latest = [folder / Path(pointer.read_text().strip()).name] if pointer.is_file() else []
    found = [p for p in best[-1:] + latest if p.is_file()]
    if not found:
        raise FileNotFoundError(f'{folder} holds no checkpoint: name a .pth file, or train first with tools/train.py')
    return str(found[0])


def default_work_dir(cfg: Config) -> str:
    """Return work_dirs/NAME_OF_CONFIG, or what the config says."""
    return cfg.get('work_dir') or str(Path('work_dirs', Path(cfg.filename).stem))


def train(
    cfg: Config,
    *,
    work_dir: str | None = None,
    resume: str | None = None,
    amp: bool = False,
    launcher: str = 'none',
) -> Runner:
    """Train the segmentor of `cfg` and return the runner; `resume` is a checkpoint file or 'latest'.

    Raises:
        FileNotFoundError: the data, or the checkpoint to resume, is not there.
        ValueError: the config does not fit the network or the weights.
    """
    cfg.work_dir = work_dir or default_work_dir(cfg)
    check_data(cfg, 'train_dataloader', 'val_dataloader')
    if resume:
        cfg.resume = True
        cfg.load_from = None if resume == 'latest' else find_checkpoint(resume)
        if cfg.load_from and not Path(cfg.load_from).is_file():
            raise FileNotFoundError(f'there is no checkpoint {cfg.load_from} to resume from')
    runner = Runner.from_cfg(prepare(cfg, launcher, amp=amp))
    if resume == 'latest' and not Path(cfg.work_dir, 'last_checkpoint').is_file():
        runner.logger.warning('%s holds no checkpoint to resume from: this run starts at iteration 0', cfg.work_dir)
    runner.train()
    runner.logger.info('trained; the checkpoints are in %s', cfg.work_dir)
    return runner
