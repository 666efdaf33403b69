"""mmengine's checkpoints through our store: nothing in them runs, none is left half written, each must fit.

Importing this module reroutes mmengine for the whole process: its loaders of every scheme (`init_model` of
mmseg and the runner's resume included), its writing of local files, and the place where weights meet a model.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from numbers import Real
from pathlib import Path
from typing import Any

import mmengine.hooks
import mmengine.runner.checkpoint as mmengine_checkpoint
from mmengine.fileio import LocalBackend, register_backend
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import CheckpointLoader, Runner
from torch import Tensor, nn

from ..files import atomic_write
from ..models.trunk import RepVGG
from ..weights.checkpoint_io import WeightsError, read_checkpoint
from ..weights.key_maps import is_segmentor, to_official, unwrap
from ..weights.pretrained import SCHEME, fitting, is_range, resolve


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
    """mmengine's, which takes over, and so removes, checkpoints of its own folder only."""

    def before_train(self, runner: Runner) -> None:
        """Forget the files of other folders that the checkpoint named from which the run resumes."""
        info = runner.message_hub.runtime_info
        work_dir = Path(runner.work_dir)
        folder = work_dir if self.out_dir in (None, runner.work_dir) else Path(self.out_dir, work_dir.name)

        def ours(path: object) -> bool:
            return isinstance(path, str) and Path(path).parent.resolve() == folder.resolve()

        if not ours(info.get('last_ckpt')):
            info.pop('keep_ckpt_ids', None)
        for key in [key for key in info if key.startswith('best_ckpt')]:
            path = info[key]
            whole = ours(path) and os.path.isfile(path) and not os.path.islink(path)
            if not (whole and Path(path).name.startswith('best_')):
                del info[key]
        super().before_train(runner)


class AtomicLocalBackend(LocalBackend):
    """Local files written whole or not at all: a run killed while it saves keeps its previous checkpoint."""

    def put(self, obj: bytes, filepath: str | Path) -> None:
        """Write bytes."""
        with atomic_write(filepath) as file:
            file.write(obj)

    def put_text(self, obj: str, filepath: str | Path, encoding: str = 'utf-8') -> None:
        """Write text."""
        self.put(obj.encode(encoding), filepath)


for name, ours in {
    '_safe_torch_load': _read,
    'load_url': _read_url,
    'load_state_dict': _load_checked,
}.items():
    if not hasattr(mmengine_checkpoint, name):  # else the rerouting would silently do nothing
        raise ImportError(f'this mmengine has no mmengine.runner.checkpoint.{name}: install onedl-mmengine>=0.10.8')
    setattr(mmengine_checkpoint, name, ours)
CheckpointLoader.register_scheme(SCHEME, load_from_repvgg, force=True)
register_backend('local', AtomicLocalBackend, force=True, prefixes='')
