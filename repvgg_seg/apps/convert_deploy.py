"""Convert a trained segmentor or ImageNet classifier to plain 3x3 convolutions and prove that it is the same function.

    python tools/convert_deploy.py work_dirs/pspnet_repvgg_a0_demo
    python tools/convert_deploy.py configs/pspnet_repvgg_a0_demo.py work_dirs/pspnet_repvgg_a0_demo deploy/demo
    python tools/convert_deploy.py RepVGG-B2 RepVGG-B2-train.pth deploy/b2

Writes deploy.pth (weights; loads with weights_only=True), report.json (deviations, sizes, hashes, versions) and, for a
segmentor, deploy.py, its config: mmseg.apis.init_model('deploy.py', 'deploy.pth') runs the two.
If the two forms are not equal nothing is written. A work directory, or a checkpoint of it, is enough: checkpoints
remember their config. Of a checkpoint from elsewhere, name the config first.
"""

from __future__ import annotations

import argparse
import copy
from pathlib import Path
from typing import Any

from mmengine.config import Config

from ..deploy.convert import (
    convert_classifier_checkpoint,
    convert_segmentor,
    is_deployed,
    make_folder,
    require_blocks,
    verify_quantized,
    verify_segmentor,
    write_deployed,
)
from ..models import variants
from ..models.quantized import quantizers, round_kernels
from ..openmmlab.datasets import metainfo
from ..weights.checkpoint_io import read_checkpoint
from ..weights.pretrained import load_weights, resolve
from .config import add_cfg_options, build_segmentor, find_checkpoint, is_config, load_config, recorded_config

# What only training reads: a deployed config is for inference and evaluation.
TRAINING_KEYS = (
    'train_dataloader', 'train_pipeline', 'train_cfg', 'optimizer', 'optim_wrapper', 'param_scheduler', 'custom_hooks',
    'load_from', 'resume', 'sync_bn', 'work_dir',
)  # fmt: skip


def deployed_config(cfg: Config) -> Config:
    """Return the config of the deployed form of `cfg`: self-contained, without what only training reads."""
    deployed = copy.deepcopy(cfg)
    for key in TRAINING_KEYS:
        deployed.pop(key, None)
    deployed.model.update(auxiliary_head=None, train_cfg=None)
    deployed.model.pop('custom_l2', None)  # part of the loss
    deployed.model.backbone.init_cfg = None
    deployed.model.update(type='DeployedSegmentor', segmentor=deployed.model.type)
    return deployed


def convert_segmentor_checkpoint(
    config: str | Path | None, checkpoint: str | Path, out_dir: str | Path, options: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Write `deploy.py`, `deploy.pth` and `report.json` for a trained segmentor to `out_dir` and return the report.

    Without `config` it is the one that the checkpoint remembers; `options` change it.

    Raises:
        FileNotFoundError: the config or the checkpoint is not there.
        ValueError: they don't fit each other, there is no train-time RepVGG block, or the two forms are not equal.
            Nothing has been written then.
    """
    cfg = recorded_config(checkpoint, options) if config is None else load_config(config, options)
    name = str(config or find_checkpoint(checkpoint))
    original = build_segmentor(cfg)
    require_blocks(original)
    if is_deployed(original):
        raise ValueError(f'{name} describes a deployed model already: there is nothing to convert')
    source = resolve(find_checkpoint(checkpoint))
    load_weights(original, source)
    meta = {'dataset_meta': _dataset_meta(cfg, read_checkpoint(source).get('meta') or {})}
    converted = convert_segmentor(original)
    deviations = verify_segmentor(original, converted)
    rounded = None
    if quantizers(converted):
        round_kernels(converted)
        rounded = verify_quantized(original, converted)

    # A fresh model must take the weights.
    deployed = deployed_config(cfg)
    build_segmentor(deployed).load_state_dict(converted.state_dict())
    folder = make_folder(out_dir)
    return write_deployed(
        folder,
        original,
        converted,
        deviations,
        model=name,
        source=source,
        meta=meta,
        config=deployed.pretty_text,
        options=options,
        rounded=rounded,
    )


def _dataset_meta(cfg: Config, checkpoint_meta: dict[str, Any]) -> dict[str, Any]:
    """Return classes and palette as plain data: those the checkpoint was trained with, else those of the data set."""
    meta = checkpoint_meta.get('dataset_meta')
    if not meta:
        dataset = (cfg.get('test_dataloader') or {}).get('dataset')
        if not dataset:
            raise ValueError('neither the checkpoint nor a test_dataloader in the config tells classes and palette')
        meta = metainfo(dataset)
    return {
        'classes': [str(name) for name in meta.get('classes') or ()],
        'palette': [[int(value) for value in colour] for colour in meta.get('palette') or ()],
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        'words',
        nargs='+',
        metavar='MODEL',
        help='[CONFIG or full name of a classifier, such as RepVGG-B2] WEIGHTS [OUT]; the weights are a work '
        'directory, a file, a URL or repvgg://NAME',
    )
    parser.add_argument('--out', metavar='DIR', help='where the converted model goes (default: WORK_DIR/deploy)')
    add_cfg_options(parser)


def _told(words: list[str], out: str | None) -> tuple[str | None, str, str | Path]:
    """Return model, weights and output folder of a command line.

    Raises:
        ValueError: it has no weights, or no output folder, or two of them.
    """
    if words[0].startswith('RepVGG') and not Path(words[0]).exists() and not words[0].endswith(('.py', '.pth')):
        variants.get_variant(words[0])  # which tells the name that was meant
    named = words[0] in variants.VARIANTS or is_config(words[0])
    model, rest = (words[0], words[1:]) if named else (None, words)
    if not rest:
        raise ValueError(f'{model} has no weights to convert: name a work directory or a checkpoint after it')
    if len(rest) > 2 or (len(rest) == 2 and out):
        raise ValueError(f'{rest[-1]} is one folder too many: one takes the converted model')
    checkpoint = rest[0]
    if folder := out or (rest[1] if len(rest) == 2 else None):
        return model, checkpoint, folder
    if not Path(checkpoint).is_dir():
        raise ValueError(f'name the folder that is to take the converted {checkpoint}: --out DIR')
    return model, checkpoint, Path(checkpoint, 'deploy')


def main(args: argparse.Namespace) -> None:
    """Convert, and print the deviations."""
    model, checkpoint, out_dir = _told(args.words, args.out)
    if model is not None and model in variants.VARIANTS:
        if args.cfg_options:
            raise ValueError('a classifier has no config: leave --cfg-options out')
        report = convert_classifier_checkpoint(model, checkpoint, out_dir)
    else:
        report = convert_segmentor_checkpoint(model, checkpoint, out_dir, args.cfg_options)
    for deviation in report['verification']:
        height, width = deviation['input_size']
        print(
            f'{deviation["check"]:>8} {height}x{width}: largest deviation {deviation["max_rel"]:.2e} relative, '
            f'{deviation["agreement"]:.4%} of the classes agree'
        )
    if report['rounded']:
        print(
            f'    int8: {report["rounded"]["agreement"]:.4%} of the classes as the trained network has them; '
            'the weights lie on the steps of int8'
        )
    before, after = report['parameters']['train'], report['parameters']['deploy']
    print(f'one rounding of float32 comes out {report["amplification"]:.3g} times larger in the logits')
    print(f'{before:,} parameters while training, {after:,} deployed; wrote {out_dir}')
