"""Train a RepVGG classifier on ImageNet, or evaluate one.

    python tools/pretrain_imagenet.py --arch RepVGG-A0 --data-root data/imagenet --recipe paper-120e --amp
    torchrun --nproc-per-node 8 tools/pretrain_imagenet.py --launcher pytorch --amp
    python tools/pretrain_imagenet.py --eval repvgg://RepVGG-A0 --deploy --resolution 224 320

The data are folders train/CLASS and val/CLASS, or ILSVRC2012_img_train.tar and ILSVRC2012_img_val.tar as they were
downloaded, the latter with ILSVRC2012_devkit_t12.tar.gz beside it. What training leaves in the work directory,
ARCH-pretrain.pth and the averaged ARCH-pretrain-ema.pth, loads as a backbone and converts with convert_deploy.py.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.dist import barrier, get_world_size, init_dist, is_distributed, is_main_process
from mmengine.model import is_model_wrapper
from mmseg.utils import register_all_modules

from ..cli import add_runner_options, add_training_options
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
from ..weights.pretrained import load_weights, read_weights, resolve
from .config import CONFIGS, add_cfg_options, find_checkpoint, keep_only_test, load_config
from .test import Results, format_table
from .train import prepare, run_training

RECIPES = ('paper-120e', 'paper-200e', 'plus-300e')


def config_of(recipe: str, options: dict[str, Any] | None = None) -> Config:
    """Return the config of `recipe`, one of RECIPES or a file, with `options` merged in.

    Raises:
        FileNotFoundError: there is no such config.
        ValueError: it is none of pretraining, or an option changes nothing in it.
    """
    path = CONFIGS / 'imagenet' / f'{recipe.replace("-", "_")}.py' if recipe in RECIPES else Path(recipe)
    return load_config(path, options, kind='classifier', part='arch')


def pretrain(
    cfg: Config,
    *,
    recipe: str,
    custom_l2: bool = False,
    work_dir: str | None = None,
    resume: str | None = None,
    overwrite: bool = False,
    amp: bool = False,
    launcher: str = 'none',
) -> dict[str, Path]:
    """Train the classifier of `cfg` and return the files of its weights: those of the last step, and averaged.

    The recipe's batch is divided among the processes; another one scales the learning rate, and says so. `resume` is
    a checkpoint file or 'latest'.

    Raises:
        FileNotFoundError: the data, or the checkpoint to resume, is not there.
        ValueError: the data, the network and the checkpoint do not fit each other, or the loss diverged.
    """
    arch = cfg.model.arch
    get_variant(arch)
    name = Path(recipe).stem.replace('_', '-')
    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/{name}_{arch}'
    register_all_modules()
    prepare(cfg, launcher, amp=amp)
    if launcher != 'none' and not is_distributed():
        init_dist(launcher, **cfg.env_cfg.dist_cfg)
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
    cfg.custom_hooks = [*cfg.custom_hooks, {'type': 'PretrainingHook', 'identity': identity, 'batch': batch}]
    if importlib.util.find_spec('tensorboard'):
        cfg.visualizer.vis_backends.append({'type': 'TensorboardVisBackend'})
    with own_work_dir(cfg, resume=resume, overwrite=overwrite, first=is_main_process()):
        if cfg.load_from and cfg.resume:
            _check_identity(cfg.load_from, identity)
        commit = _commit()  # of the code that trains, whatever is checked out at the end
        return _publish(run_training(Runner.from_cfg(cfg)), identity, commit)


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
        raise ValueError(f'{checkpoint} is no checkpoint of pretraining: name an iter_N.pth of its work directory')
    other = [
        f'{key} {recorded.get(key)} instead of {value}' for key, value in identity.items() if recorded.get(key) != value
    ]
    if other:
        raise ValueError(
            f'{checkpoint} cannot be resumed here: it is of a run with {", ".join(other)}; '
            'resume with the same settings, or begin anew in another --work-dir'
        )


def _publish(runner: Runner, identity: dict[str, Any], commit: str | None) -> dict[str, Path]:
    """Write the two kinds of weights in the official dialect, evaluated, and return where."""
    if not is_main_process():
        return {}
    metrics = next(hook for hook in runner.hooks if isinstance(hook, PretrainingHook)).metrics
    hook = next(hook for hook in runner.hooks if isinstance(hook, AveragedWeightsHook))
    written = {}
    for kind, prefix, model in (('', '', hook.src_model), ('-ema', 'ema/', hook.ema_model.module)):
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
        written[kind or 'last'] = path
    return written


def _commit() -> str | None:
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
    launcher: str = 'none',
) -> dict[int, Results]:
    """Return top-1 and top-5 of `weights`, in any dialect, at each of `resolutions`; with `deploy` of both forms.

    Weights that are deployed already are evaluated as they are; without `resolutions` it is the recipe's.

    Raises:
        FileNotFoundError: the data is not there.
        ValueError: the weights do not fit the network or the data, or are deployed already.
    """
    path = resolve(find_checkpoint(weights))
    tensors = read_weights(path)
    if 'linear.weight' not in tensors:
        raise ValueError(f'{path} has no classifier (linear.weight): name weights of an ImageNet training')
    deployed = 'stage0.rbr_reparam.weight' in tensors
    if deploy and deployed:
        raise ValueError(f'{path} is deployed already: leave --deploy out')
    source = open_source(cfg.val_dataloader.dataset.data_root, 'val')
    num_classes = tensors['linear.weight'].shape[0]
    _check_head(num_classes, len(source.classes), 'evaluate on the data that the weights were trained on')
    classifier = load_weights(RepVGGClassifier(cfg.model.arch, num_classes, deploy=deployed), path)

    cfg.work_dir = work_dir or cfg.get('work_dir') or f'work_dirs/eval_{cfg.model.arch}'
    cfg.model.num_classes = num_classes
    cfg.test_dataloader = cfg.val_dataloader  # its workers do not persist, so that new ones see the new transform
    cfg.test_cfg, cfg.test_evaluator = {'type': 'TestLoop'}, cfg.val_evaluator
    keep_only_test(cfg)
    cfg.custom_hooks = [hook for hook in cfg.custom_hooks if hook.type == 'ChannelsLastHook']
    register_all_modules()
    size = cfg.test_dataloader.dataset.resolution
    runner = Runner.from_cfg(prepare(cfg, launcher))
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('--arch', help='full name of the network (default: that of the recipe)')
    parser.add_argument('--data-root', metavar='DIR', help='where the data are (default: data/imagenet)')
    parser.add_argument(
        '--recipe',
        default='paper-120e',
        help='paper-120e, paper-200e, plus-300e or a config file (default: %(default)s)',
    )
    parser.add_argument('--custom-l2', action='store_true', help="the authors' custom L2 in place of weight decay")
    parser.add_argument('--compile', action='store_true', help='compile the network')
    parser.add_argument('--eval', metavar='WEIGHTS', help='evaluate a file, a URL or repvgg://NAME instead of training')
    parser.add_argument('--deploy', action='store_true', help='with --eval: also the converted form')
    parser.add_argument(
        '--resolution', type=int, nargs='+', metavar='N', help="with --eval: test sizes (default: the recipe's)"
    )
    add_training_options(parser)
    add_runner_options(parser, work_dir='work_dirs/RECIPE_ARCH')
    add_cfg_options(parser)


def main(args: argparse.Namespace) -> None:
    """Train or evaluate.

    Raises:
        ValueError: an option does nothing here.
    """
    if args.eval:
        for name in ('custom_l2', 'compile', 'resume', 'overwrite', 'amp'):
            if getattr(args, name):
                raise ValueError(f'--{name.replace("_", "-")} would do nothing with --eval')
    elif args.deploy or args.resolution:
        raise ValueError('--deploy and --resolution go with --eval WEIGHTS')
    named = {'model.arch': args.arch, 'data_root': args.data_root, 'model.compiled': args.compile}
    options = args.cfg_options | {key: value for key, value in named.items() if value}
    cfg = config_of(args.recipe, options)
    if not args.eval:
        written = pretrain(
            cfg,
            recipe=args.recipe,
            custom_l2=args.custom_l2,
            work_dir=args.work_dir,
            resume=args.resume,
            overwrite=args.overwrite,
            amp=args.amp,
            launcher=args.launcher,
        )
        for path in written.values():
            print(f'wrote {path}')
        return
    results = evaluate(
        cfg,
        args.eval,
        deploy=args.deploy,
        resolutions=args.resolution,
        work_dir=args.work_dir,
        launcher=args.launcher,
    )
    for resolution, forms in results.items():
        print(f'{resolution}x{resolution}\n{format_table(forms, ("top1", "top5"))}')
