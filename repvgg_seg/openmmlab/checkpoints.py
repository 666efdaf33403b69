"""mmengine's checkpoints through our store: nothing in them runs, none is left half written, each must fit.

Importing this module reroutes mmengine for the whole process: its loaders of every scheme (`init_model` of
mmseg and the runner's resume included), its writing of local files, and the place where weights meet a model.
"""

from __future__ import annotations

import math
import os
from collections import deque
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import mmengine.hooks
import mmengine.runner.checkpoint as mmengine_checkpoint
import torch
from mmengine.dist import all_reduce, is_main_process
from mmengine.hooks import EMAHook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader, Runner
from torch import Tensor, nn

from .. import interruption
from ..files import write_text
from ..interruption import Interrupted
from ..models.trunk import RepVGG
from ..weights.checkpoint_io import WeightsError, read_checkpoint
from ..weights.key_maps import is_segmentor, to_official, unwrap
from ..weights.pretrained import SCHEME, fitting, is_range, resolve
from . import local_files as local_files  # which write checkpoints whole or not at all
from .loops import Resumable
from .work_dir import POINTER


def _read(file: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
    """Stand in for mmengine's `_safe_torch_load`, which falls back to running the file's pickle.

    `weights_only=False` opts out, for the one call.
    """
    checkpoint = read_checkpoint(file, unsafe=weights_only is False, map_location=map_location or 'cpu')
    # Configs are Python source, and mmengine runs those that it finds in a checkpoint: `config` when it
    # resumes, `cfg` where an inferencer is given weights alone (give it the config as well).
    meta, hub = _dict(checkpoint, 'meta'), _dict(checkpoint, 'message_hub')
    for key in ('cfg', 'config'):
        meta.pop(key, None)
    for key in ('epoch', 'iter', 'seed'):  # a training counts on from them
        value = meta.get(key, 0)
        if not (type(value) is int and 0 <= value < 2**32) and not (key == 'seed' and value is None):
            raise WeightsError(f'this checkpoint has no whole number for its {key}, which mmengine always writes')
    if 'runtime_info' in hub:
        hub['runtime_info'] = _facts(_dict(hub, 'runtime_info'), file)
    if checkpoint and all(isinstance(value, Tensor) for value in checkpoint.values()):
        checkpoint = {'meta': {}, 'state_dict': checkpoint}  # as a safetensors file has to be
    for key, value in _dict(checkpoint, 'state_dict').items():
        good = isinstance(key, str) and (isinstance(value, Tensor) or key.endswith('_extra_state'))
        if not good and weights_only is not False:
            raise WeightsError(f'this checkpoint has a {type(value).__name__} for the weight {key!r}')
    return checkpoint


def _facts(info: dict[str, Any], file: Any) -> dict[str, Any]:
    """Return of what a training noted what another may act on: finite numbers, and checkpoints beside this one.

    mmengine removes the files that are noted here once they are outdated, whatever they are.
    """
    folder = Path(file).absolute().parent if isinstance(file, (str, os.PathLike)) else None
    facts: dict[str, Any] = {}
    for key, value in info.items():
        if isinstance(value, Tensor) and value.numel() == 1:
            value = value.item()
        if isinstance(value, Real) and math.isfinite(value):
            facts[key] = value
        elif key == 'keep_ckpt_ids' and isinstance(value, list):
            facts[key] = [step for step in value if type(step) is int]
        elif folder and isinstance(value, str) and isinstance(key, str) and key.startswith(('best_ckpt', 'last_ckpt')):
            facts[key] = str(folder / Path(value).name)  # which is right where the folder was moved, too
    return facts


def _dict(checkpoint: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a dictionary that a checkpoint may hold; anything else could only imitate one."""
    value = checkpoint.get(key)
    if value is not None and not isinstance(value, dict):
        raise WeightsError(f'this checkpoint has a {type(value).__name__} for its {key}, which mmengine never writes')
    return {} if value is None else value


def _read_url(url: str, model_dir: None = None, map_location: Any = None, progress: bool = True) -> dict[str, Any]:
    """Stand in for torch's `load_url`, which runs the file's pickle and does not verify what it downloads."""
    if model_dir is not None:
        raise ValueError('downloads go to the cache (XDG_CACHE_HOME): leave model_dir out')
    return _read(resolve(url), map_location)


def load_from_repvgg(filename: str, map_location: Any = None) -> dict[str, Any]:
    """Load released weights by name for mmengine, under our names."""
    return {'state_dict': to_official(unwrap(_read(resolve(filename), map_location)))}


_load_state_dict = mmengine_checkpoint.load_state_dict


def _load_checked(
    module: nn.Module, state_dict: Mapping[str, Tensor], strict: bool = False, logger: Any = None
) -> None:
    """Load into our backbone, or a segmentor with it, only what fits; mmengine warns and leaves the rest random.

    A segmentor that is built to train may have other classes than the checkpoint, and may be alone in having
    auxiliary heads, and ranges of quantized layers.

    Raises:
        WeightsError: the checkpoint is another network's.
    """
    model: Any = module
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    if isinstance(model, RepVGG):
        state_dict = fitting(model, to_official(unwrap(state_dict)))
    elif isinstance(getattr(model, 'backbone', None), RepVGG):
        tensors = dict(state_dict)
        if getattr(model, 'train_cfg', None) is not None and is_segmentor(tensors):
            auxiliary = any(key.startswith('auxiliary_head.') for key in state_dict)
            for key, value in model.state_dict().items():
                (classes, *rest), (our_classes, *our_rest) = tensors.get(key, value).shape or [0], value.shape or [0]
                new = is_range(key) or (not auxiliary and key.startswith('auxiliary_head.'))
                if (new and key not in tensors) or (
                    '.conv_seg.' in key and classes != our_classes and rest == our_rest
                ):
                    tensors[key] = value
        fitting(model, tensors)
    _load_state_dict(module, state_dict, strict, logger)


@HOOKS.register_module(force=True)
class CheckpointHook(mmengine.hooks.CheckpointHook):
    """mmengine's, which removes checkpoints only of its own folder, and only once others have been saved.

    It saves where a step has been taken: gradients that are half accumulated would be lost. When a signal asks for
    the end of the training, it saves what there is and ends it.
    """

    file_backend: Any
    keep_ckpt_ids: deque[int]

    def before_train(self, runner: Runner) -> None:
        """Forget the files of other folders that the checkpoint named from which the run resumes."""
        info = runner.message_hub.runtime_info
        work_dir = Path(runner.work_dir)
        folder = work_dir if self.out_dir in (None, runner.work_dir) else Path(self.out_dir, work_dir.name)

        def ours(path: object) -> bool:
            return isinstance(path, str) and Path(path).parent.resolve() == folder.resolve()

        if not ours(info.get('last_ckpt')):
            for key in ('keep_ckpt_ids', 'last_ckpt', 'saved_iter'):
                info.pop(key, None)
        for key in [key for key in info if key.startswith('best_ckpt')]:
            path = info[key]
            whole = ours(path) and os.path.isfile(path) and not os.path.islink(path)
            if not (whole and Path(path).name.startswith('best_')):
                del info[key]
        super().before_train(runner)
        self._due = False
        # What an interrupted epoch left is outdated by the next checkpoint.
        last = info.get('last_ckpt')
        self._interim = last if last and self.by_epoch and Path(last).name.startswith('iter_') else None
        loop = runner.train_loop
        if isinstance(loop, Resumable) and loop.is_at_validation():
            runner.val_loop.run()  # the run that is resumed may have been ended in it

    def after_train_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """Save every `interval` iterations, and where a signal asks for the end.

        Raises:
            Interrupted: it does.
        """
        if not self.by_epoch:
            every = self.every_n_train_iters(runner, self.interval, self.save_begin)
            self._due |= every or (self.save_last and self.is_last_train_iter(runner))
        wanted = torch.tensor(interruption.requested())
        all_reduce(wanted, 'max')  # all processes end after the same iteration
        if not runner.optim_wrapper.should_update():
            return
        if self._due or wanted:
            step, self._due = runner.iter + 1, False
            runner.logger.info('Saving checkpoint at %d iterations', step)
            self._save(runner, 'iter_{}.pth' if self.by_epoch else self.filename_tmpl, step, runner.epoch, step)
        if wanted:
            raise Interrupted(int(wanted), runner.message_hub.get_info('last_ckpt'))

    def after_val_iter(self, runner: Runner, *args: Any, **kwargs: Any) -> None:
        """End a validation where a signal asks for it.

        Raises:
            Interrupted: it does.
        """
        if not interruption.requested() or runner.distributed:  # several wait for their next iteration
            return
        if runner.message_hub.runtime_info.get('saved_iter') != runner.iter:
            for hook in runner.hooks:  # they have put the averages in place of the weights
                if isinstance(hook, EMAHook) and type(hook).before_val_epoch is EMAHook.before_val_epoch:
                    hook._swap_ema_parameters()
            self._save(runner, 'iter_{}.pth' if self.by_epoch else self.filename_tmpl, runner.iter, runner.epoch)
        raise Interrupted(interruption.requested(), runner.message_hub.get_info('last_ckpt'))

    def _save_checkpoint_with_step(self, runner: Runner, step: int, meta: dict[str, Any]) -> None:
        self._save(runner, self.filename_tmpl, step, meta['epoch'], meta['iter'])

    def _save(self, runner: Runner, template: str, step: int, epoch: int, iteration: int | None = None) -> None:
        """Save the state after an iteration (by default `step`), point to it, and only then remove what is outdated."""
        iteration = step if iteration is None else iteration
        outdated = [self._interim] if self._interim else []
        path = self.file_backend.join_path(self.out_dir, template.format(step))
        if template == self.filename_tmpl and self.max_keep_ckpts > 0:
            kept = [*(other for other in self.keep_ckpt_ids if other != step), step]
            outdated += [
                self.file_backend.join_path(self.out_dir, template.format(other))
                for other in kept[: -self.max_keep_ckpts]
            ]
            self.keep_ckpt_ids = deque(kept[-self.max_keep_ckpts :])
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))
        self.last_ckpt, self._interim = path, None if template == self.filename_tmpl else path
        runner.message_hub.update_info('last_ckpt', path)
        runner.message_hub.update_info('saved_iter', iteration)
        runner.save_checkpoint(
            self.out_dir,
            Path(path).name,
            self.file_client_args,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta={'epoch': epoch, 'iter': iteration},
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args,
        )
        if not is_main_process():
            return
        write_text(path, Path(runner.work_dir, POINTER))
        for old in outdated:
            if old != path and self.file_backend.isfile(old):
                self.file_backend.remove(old)

    def _save_best_checkpoint(self, runner: Runner, metrics: dict[str, Any]) -> None:
        backend: Any = self.file_backend
        removed: list[str] = []
        self.file_backend = _Postponing(backend, removed)
        try:
            super()._save_best_checkpoint(runner, metrics)
        finally:
            self.file_backend = backend
        best = {value for key, value in runner.message_hub.runtime_info.items() if key.startswith('best_ckpt')}
        for path in removed:
            if path not in best:
                backend.remove(path)


class _Postponing:
    """A storage that notes what is to be removed, and does anything else."""

    def __init__(self, backend: Any, removed: list[str]) -> None:
        self._backend, self.remove = backend, removed.append

    def __getattr__(self, name: str) -> Any:
        return getattr(self._backend, name)


for name, ours in {
    '_safe_torch_load': _read,
    'load_url': _read_url,
    'load_state_dict': _load_checked,
}.items():
    if not hasattr(mmengine_checkpoint, name):  # else the rerouting would silently do nothing
        raise ImportError(f'this mmengine has no mmengine.runner.checkpoint.{name}: install onedl-mmengine>=0.10.8')
    setattr(mmengine_checkpoint, name, ours)
CheckpointLoader.register_scheme(SCHEME, load_from_repvgg, force=True)
