"""Folders of deployed segmentors: converted from a checkpoint, proven equal, and read again."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from mmengine.config import Config
from torch import nn

from .. import files
from ..deploy.convert import (
    convert_segmentor,
    is_deployed,
    make_folder,
    require_blocks,
    verify_segmentor,
    write_deployed,
)
from ..openmmlab.datasets import metainfo
from ..runtime.backends import KINDS
from ..weights.pretrained import Checkpoint, load_weights
from .config import build_segmentor, load_config, recorded_config
from .work_dir import find_checkpoint, open_checkpoint

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
    cfg = load_config(config, options) if config else None  # before a large file is read
    source = open_checkpoint(checkpoint)
    cfg = cfg or recorded_config(source, options)
    name = str(config or source.path)
    original = build_segmentor(cfg)
    require_blocks(original)
    if is_deployed(original):
        raise ValueError(f'{name} describes a deployed model already: there is nothing to convert')
    load_weights(original, source)
    meta = {'dataset_meta': _dataset_meta(cfg, source.meta)}
    converted = convert_segmentor(original)
    deviations = verify_segmentor(original, converted)

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
        source=source.path,
        meta=meta,
        config=deployed.pretty_text,
        options=options,
    )


def _dataset_meta(cfg: Config, checkpoint_meta: dict[str, Any]) -> dict[str, Any]:
    """Return classes and palette as plain data: those the checkpoint was trained with, else those of the data set."""
    meta = checkpoint_meta.get('dataset_meta')
    if not meta:
        dataset = (cfg.get('test_dataloader') or {}).get('dataset')
        if not dataset:
            raise ValueError('neither the checkpoint nor a test_dataloader in the config names classes and palette')
        meta = metainfo(dataset)
    return {
        'classes': [str(name) for name in meta.get('classes') or ()],
        'palette': [[int(value) for value in colour] for colour in meta.get('palette') or ()],
    }


def converted(path: str | Path, options: dict[str, Any] | None = None) -> Path:
    """Return the folder of the deployed model: `path` itself, or the folder `deploy` of a training, which may be made.

    Raises:
        FileNotFoundError, ValueError: see `convert_segmentor_checkpoint`; or an exported file was named.
    """
    path = Path(path)
    if path.suffix.lower() in KINDS:
        raise ValueError(
            f'{path} is an exported file, and no other is made from it: name the folder, work directory or checkpoint '
            'that it was exported from'
        )
    if not (path.is_file() or (path / 'last_checkpoint').is_file()):
        return path
    folder = (path if path.is_dir() else path.parent) / 'deploy'
    try:
        report = json.loads((folder / 'report.json').read_text())
        same_options = report['options'] == json.loads(json.dumps(options or {}))
        if same_options and report['source']['sha256'] == files.sha256(find_checkpoint(path)):
            return folder
    except (OSError, ValueError, LookupError, TypeError):
        pass  # it is converted again
    convert_segmentor_checkpoint(None, path, folder, options)
    return folder


def load_deployed(
    model_dir: str | Path, options: dict[str, Any] | None = None
) -> tuple[Config, nn.Module, dict[str, Any], dict[str, str]]:
    """Read what `convert_checkpoint` wrote: config, segmentor, its meta data, and name and hash of the weights.

    Raises:
        FileNotFoundError: a part of it is not there.
        ValueError: the folder holds something else, or a part of it was changed or cut short.
    """
    folder = Path(model_dir)
    config, weights, report_file = (folder / name for name in ('deploy.py', 'deploy.pth', 'report.json'))
    cure = 'name a folder that tools/convert_deploy.py wrote for a segmentor'
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder} is not a folder: {cure}')
    if weights.is_file() and not config.is_file():
        raise ValueError(
            f'{folder} holds no deploy.py beside its deploy.pth, so it is a classifier, or --python names it: {cure}'
        )
    if missing := [path.name for path in (config, weights, report_file) if not path.is_file()]:
        raise FileNotFoundError(f'{folder} holds no {" and no ".join(missing)}: {cure}')
    try:
        report = json.loads(report_file.read_text())
        proven = {weights: report['deployed']['sha256']}
        if 'config' in report:  # older ones hold the weights' hash alone
            proven[config] = report['config']['sha256']
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f'{report_file} cannot be read: convert the model again') from error
    for path, digest in proven.items():
        if files.sha256(path) != digest:
            raise ValueError(f'{path} is not the file that {report_file} proves right: copy it again, or convert again')
    cfg = load_config(config, options)
    if (cfg.model.get('data_preprocessor') or {}).get('test_cfg'):
        raise ValueError(
            f'{config} pads images for the test (data_preprocessor.test_cfg), which the inference graph does not: '
            'remove that, and export a size that needs no padding'
        )
    segmentor = build_segmentor(cfg)
    if not is_deployed(segmentor):
        raise ValueError(f'{config} does not describe a deployed model: {cure}')
    checkpoint = Checkpoint.read(weights)
    load_weights(segmentor, checkpoint)
    meta = checkpoint.meta.get('dataset_meta') or {}
    return cfg, segmentor, meta, {'file': weights.name, 'sha256': proven[weights]}
