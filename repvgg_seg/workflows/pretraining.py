"""Pretraining and evaluating classifiers on ImageNet, by the recipes in configs/imagenet."""

from __future__ import annotations

import importlib.util
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import barrier, get_world_size, init_dist, is_distributed, is_main_process
from mmengine.model import is_model_wrapper
from mmseg.utils import register_all_modules

from ..deploy.convert import switch_to_deploy, verify_classifier
from ..environment import versions
from ..models.classifier import RepVGGClassifier
from ..models.variants import get_variant
from ..openmmlab.imagenet import AveragedWeightsHook, PretrainingHook
from ..openmmlab.runner import Runner
from ..openmmlab.work_dir import own_work_dir
from ..pretrain import data
from ..pretrain.sources import check_classes, open_source
from ..pretrain.transforms import test_transform
from ..weights.checkpoint_io import read_checkpoint, write_checkpoint
from ..weights.key_maps import from_official
from ..weights.pretrained import load_weights, read_weights
from .config import CONFIGS, keep_only_test, load_config
from .evaluation import Results
from .work_dir import open_checkpoint

RECIPES = ('paper-120e', 'paper-200e', 'plus-300e')


def config_of(recipe: str, options: dict[str, Any] | None = None) -> Config:
    """Return the config of `recipe`, one of RECIPES or a file, with `options` merged in.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: it is not a config of pretraining, or an option changes nothing in it.
    """
    path = CONFIGS / 'imagenet' / f'{recipe.replace("-", "_")}.py' if recipe in RECIPES else Path(recipe)
    return load_config(path, options, kind='classifier', part='arch')


@contextmanager
def begin(
    cfg: Config,
    *,
    recipe: str,
    custom_l2: bool = False,
    work_dir: str | None = None,
    resume: str | None = None,
    overwrite: bool = False,
) -> Iterator[Runner]:
    """Hold a work directory, and give the runner that trains the classifier of `cfg`, a config that fits the hardware.

    The recipe's batch is divided among the processes; another one scales the learning rate, and says so. `resume` is
    a checkpoint file or 'latest'.

    Raises:
        FileNotFoundError: the data, or the checkpoint to resume, is not there.
        ValueError: the data, the network and the checkpoint do not fit each other.
    """
    arch = cfg.model.arch
    get_variant(arch)
    name = Path(recipe).stem.replace('_', '-')
    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{name}_{arch}'
    if cfg.launcher != 'none' and not is_distributed():
        init_dist(cfg.launcher, **cfg.env_cfg.dist_cfg)
    images = _check_data(cfg)
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].update(
            pin_memory=torch.cuda.is_available(), persistent_workers=cfg[f'{split}_dataloader'].num_workers > 0
        )

    loader, processes = cfg.train_dataloader, get_world_size()
    loader.setdefault('batch_size', max(1, cfg.auto_scale_lr.base_batch_size // processes))
    loader.sampler.batch_size = loader.batch_size
    batch = loader.batch_size * processes
    data.GlobalBatchSampler(images, loader.batch_size, seed=0, world_size=processes)  # refuses what makes no epoch
    if custom_l2:
        cfg.model.custom_l2 = cfg.optim_wrapper.optimizer.weight_decay
    cfg.param_scheduler[-1].end = cfg.train_cfg.max_epochs  # the cosine ends with the training
    identity = {
        'arch': arch,
        'recipe': name,
        'custom_l2': bool(cfg.model.get('custom_l2')),
        'num_classes': cfg.model.num_classes,
        'max_epochs': cfg.train_cfg.max_epochs,
        'images': images,
        'batch': batch,
        'accumulated': cfg.optim_wrapper.get('accumulative_counts', 1),
    }
    hook = {'type': 'PretrainingHook', 'identity': identity, 'batch': batch}
    cfg.custom_hooks = [*cfg.custom_hooks, hook]
    if importlib.util.find_spec('tensorboard'):
        cfg.visualizer.vis_backends.append({'type': 'TensorboardVisBackend'})
    fits = partial(_check_identity, identity=identity)
    with own_work_dir(cfg, resume=resume, overwrite=overwrite, first=is_main_process(), fits=fits):
        yield Runner.from_cfg(cfg)


def _check_data(cfg: Config) -> int:
    """Check that train and val fit each other and the head, and return the number of training images."""
    if not is_main_process():
        barrier()  # the first process writes the indices of tar files; the others find them
    sources = [open_source(cfg[f'{split}_dataloader'].dataset.data_root, split) for split in ('train', 'val')]
    if is_main_process():
        barrier()
    train, val = sources
    check_classes(train, val)
    cure = f'pass --cfg-options model.num_classes={len(train.classes)}'
    _check_head(cfg.model.num_classes, len(train.classes), cure)
    return len(train.labels)


def _check_head(head: int, classes: int, cure: str) -> None:
    if head != classes:
        raise ValueError(f'the head has {head} classes but the data {classes}: {cure}')


def _check_identity(checkpoint: str, identity: Mapping[str, Any]) -> None:
    recorded = read_checkpoint(checkpoint).get('meta', {}).get('pretraining')
    if recorded is None:
        raise ValueError(f'{checkpoint} is not a checkpoint of pretraining: name an iter_N.pth of its work directory')
    other = [
        f'{key} {recorded.get(key)} instead of {value}' for key, value in identity.items() if recorded.get(key) != value
    ]
    if other:
        raise ValueError(
            f'{checkpoint} cannot be resumed here: it is of a run with {", ".join(other)}; '
            'resume with the same settings, or begin anew in another --work-dir'
        )


def publish(runner: Runner, commit: str | None) -> list[Path]:
    """Write the weights of the last step and the averaged ones, under official names and evaluated; return where."""
    if not is_main_process():
        return []
    averaged = next(hook for hook in runner.hooks if isinstance(hook, AveragedWeightsHook))
    own = next(hook for hook in runner.hooks if isinstance(hook, PretrainingHook))
    identity, metrics = own.identity, own.metrics
    written = []
    for kind, prefix, model in (('', '', averaged.src_model), ('-ema', 'ema/', averaged.ema_model.module)):
        meta = {
            **identity,
            'averaged': bool(kind),
            'top1': metrics[f'{prefix}accuracy/top1'],
            'top5': metrics[f'{prefix}accuracy/top5'],
            'resolution': runner.cfg.val_dataloader.dataset.resolution,
            'classes': list(runner.train_dataloader.dataset.metainfo['classes']),
            'commit': commit,
            'versions': versions(),
            'date': datetime.now(timezone.utc).date().isoformat(),
        }
        tensors = {key: value.cpu() for key, value in model.model.state_dict().items()}
        path = Path(runner.work_dir, f'{identity["arch"]}-pretrain{kind}.pth')
        write_checkpoint({'meta': meta, 'state_dict': from_official(tensors, 'official')}, path)
        runner.logger.info('wrote %s: top-1 %.2f, top-5 %.2f', path, meta['top1'], meta['top5'])
        written.append(path)
    return written


def commit_of_checkout() -> str | None:
    """Return the commit of the checkout that this runs from, if it is one."""
    command = ['git', '-C', str(Path(__file__).parent), 'rev-parse', 'HEAD']
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def evaluate(
    cfg: Config,
    weights: str,
    *,
    deploy: bool = False,
    resolutions: Sequence[int] | None = None,
    work_dir: str | None = None,
) -> dict[int, Results]:
    """Return top-1 and top-5 of `weights`, in any dialect, at each of `resolutions`; with `deploy` of both forms.

    Weights that are deployed already are evaluated as they are; without `resolutions` it is the recipe's.

    Raises:
        FileNotFoundError: the data is not there.
        ValueError: the weights do not fit the network or the data, or are deployed already.
    """
    checkpoint = open_checkpoint(weights)
    path, tensors = checkpoint.path, read_weights(checkpoint)
    if 'linear.weight' not in tensors:
        raise ValueError(f'{path} has no classifier (linear.weight): name weights of an ImageNet training')
    deployed = 'stage0.rbr_reparam.weight' in tensors
    if deploy and deployed:
        raise ValueError(f'{path} is deployed already: leave --deploy out')
    source = open_source(cfg.val_dataloader.dataset.data_root, 'val')
    num_classes = tensors['linear.weight'].shape[0]
    _check_head(num_classes, len(source.classes), 'evaluate on the data that the weights were trained on')
    classifier = load_weights(RepVGGClassifier(cfg.model.arch, num_classes, deploy=deployed), checkpoint)

    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/eval_{cfg.model.arch}'
    cfg.model.num_classes = num_classes
    cfg.test_dataloader = cfg.val_dataloader  # its workers do not persist, so that new ones see the new transform
    cfg.test_cfg, cfg.test_evaluator = {'type': 'TestLoop'}, cfg.val_evaluator
    keep_only_test(cfg)
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook.type == 'ChannelsLastHook']
    register_all_modules()
    size = cfg.test_dataloader.dataset.resolution
    runner = Runner.from_cfg(cfg)
    wrapped = runner.model.module if is_model_wrapper(runner.model) else runner.model
    forms = {'deployed' if deployed else 'train-time': classifier}
    if deploy:
        forms['deployed'] = switch_to_deploy(classifier)
        deviations = verify_classifier(classifier, forms['deployed'])
        runner.logger.info('converted; largest relative deviation %.2e', max(d.max_rel for d in deviations))
    results: dict[int, Results] = {}
    for resolution in resolutions or [size]:
        runner.test_dataloader.dataset.transform = test_transform(resolution)
        results[resolution] = {}
        for form, model in forms.items():
            wrapped.model = model.to(next(wrapped.parameters()).device)
            metrics = runner.test()
            results[resolution][form] = {name.removeprefix('accuracy/'): value for name, value in metrics.items()}
    return results if is_main_process() else {}
