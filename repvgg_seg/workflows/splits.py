"""The data sets that a config reads, as splits to be checked."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from mmengine.config import Config, ConfigDict
from mmseg.registry import DATASETS
from mmseg.utils import register_all_modules

from ..data.checks import faults
from ..data.inspection import inspect, quick_errors
from ..data.report import Report
from ..data.samples import Reading
from ..data.splits import Folders, Labels, Split
from ..data.train_ids import SUFFIX
from ..openmmlab.datasets import inner_data_sets, is_labelled

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def list_splits(cfg: Config, loader: str) -> list[Split]:
    """Return the labelled data sets that a loader of `cfg` reads: one, several where they are joined, or none.

    Raises:
        FileNotFoundError: a folder does not exist, or holds no file with the suffixes of the data set.
    """
    if loader not in cfg:
        return []
    configs = [part for part in inner_data_sets(cfg[loader].dataset) if is_labelled(part)]
    name = loader.removesuffix('_dataloader')
    names = [name if len(configs) == 1 else f'{name}[{i}]' for i in range(len(configs))]
    return [_list_split(cfg, dataset, loader, name) for name, dataset in zip(names, configs, strict=True)]


def check_data(cfg: Config, *loaders: str) -> None:
    """Check that the folders which `loaders` of `cfg` read hold data, of no more classes than the heads have outputs
    for.

    Raises:
        FileNotFoundError: one holds none; the message says which and what to do.
        ValueError: there are more classes.
    """
    for split in (split for loader in loaders for split in list_splits(cfg, loader)):
        for finding in faults('split', split, split=split.name, whole=False):
            if finding.severity == 'error':
                raise ValueError(str(finding))


def check_quickly(cfg: Config) -> None:
    """Refuse data that cannot train: see `quick_errors`.

    Raises:
        FileNotFoundError: there is no data.
        ValueError: a mask is missing or does not fit its image or the classes, or there are more classes than outputs.
    """
    errors = quick_errors(split for loader in LOADERS[:2] for split in list_splits(cfg, loader))
    if errors:
        more = f' ({len(errors) - 1} more of other kinds)' if len(errors) > 1 else ''
        raise ValueError(f'{errors[0]}{more}. "python tools/check_dataset.py CONFIG" looks at everything')


def check_dataset(cfg: Config, *, workers: int | None = None) -> Report:
    """Look at every image and mask of `cfg` and return what was found.

    Raises:
        FileNotFoundError: there is no data.
    """
    register_all_modules()
    splits: list[Split] = []
    seen: list[Any] = []
    for loader in LOADERS:
        if loader in cfg and cfg[loader].dataset not in seen:
            seen.append(cfg[loader].dataset)
            splits += list_splits(cfg, loader)
    if not splits:
        raise ValueError('the config has no data: it needs a train_dataloader, a val_dataloader or a test_dataloader')
    return inspect(splits, workers=workers)


def _list_split(cfg: Config, dataset: ConfigDict, loader: str, name: str) -> Split:
    root = dataset.get('data_root') or ''
    for key, folder in dataset.get('data_prefix', {}).items():
        if folder and not Path(root, folder).is_dir():
            raise _no_data(loader, key, Path(root, folder), 'does not exist')
    if (listing := dataset.get('ann_file')) and not Path(root, listing).exists():
        raise _no_data(loader, 'ann_file', Path(root, listing), 'does not exist')
    # Neither decoded nor cut to `indices`: what lies beside the samples is looked at as well.
    built = DATASETS.build({**dataset, 'pipeline': [], 'indices': None, 'serialize_data': False, 'lazy_init': False})
    pairs = [(info['img_path'], info.get('seg_map_path', '')) for info in built.data_list]
    prefix = {key: os.path.normpath(folder) for key, folder in built.data_prefix.items() if folder}
    image_suffixes, mask_suffixes = (_suffixes(built, key) for key in ('img_suffix', 'seg_map_suffix'))
    if not pairs:
        raise _no_data(loader, 'img_path', prefix['img_path'], f'holds no {_pattern(image_suffixes)}')
    if not any(os.path.exists(mask) for _, mask in pairs):
        state = f'holds no {_pattern(mask_suffixes)} of these images'
        if pairs[0][1].endswith(SUFFIX):
            state += f' (made from labelIds or polygons by "python tools/make_train_ids.py {root}")'
        raise _no_data(loader, 'seg_map_path', prefix.get('seg_map_path', root), state)
    steps = {step['type']: step for step in dataset.get('pipeline', [])}
    image_step = steps.get('LoadImageFromFile') or steps.get('LoadCachedImage') or {}
    mask_step = steps.get('LoadAnnotations') or steps.get('LoadCachedAnnotations') or {}
    heads = _heads(cfg)
    head = heads.get('decode_head', {})
    names = tuple(built.metainfo.get('classes') or (f'class {i}' for i in range(head.get('num_classes', 0))))
    in_folders = not built.ann_file and {'img_path', 'seg_map_path'} <= prefix.keys()
    return Split(
        name,
        pairs,
        Labels(
            names,
            ignore_index=head.get('ignore_index', 255),
            reduce_zero_label=getattr(built, 'reduce_zero_label', False),
            label_map=getattr(built, 'label_map', None) or {},
            palette=built.metainfo.get('palette') or [[128, 128, 128]] * len(names),
        ),
        Reading(
            turns_images=image_step.get('color_type', 'color') in ('color', 'grayscale')
            and image_step.get('imdecode_backend', 'cv2') in ('cv2', 'pillow'),
            expands_palettes=mask_step.get('imdecode_backend', 'pillow') == 'cv2',
        ),
        outputs={name: head.get('num_classes', len(names)) for name, head in heads.items()},
        folders=Folders(prefix['img_path'], prefix['seg_map_path'], image_suffixes, mask_suffixes)
        if in_folders
        else None,
    )


def _no_data(loader: str, key: str, path: str | Path, state: str) -> FileNotFoundError:
    return FileNotFoundError(
        f'no data for {loader} ({key}): {path} {state}. Put the data set there, point to it with --cfg-options '
        'data_root=DIR, or make a procedural one in Cityscapes\' layout with "python tools/make_demo_data.py".'
    )


def _suffixes(dataset: Any, key: str) -> tuple[str, ...]:
    """Return how file names of a data set end: one way or several."""
    suffix = getattr(dataset, key, '')
    return (suffix,) if isinstance(suffix, str) else tuple(suffix)


def _pattern(suffixes: tuple[str, ...]) -> str:
    return ' or '.join(f'*{suffix}' for suffix in suffixes)


def _heads(cfg: Config) -> dict[str, ConfigDict]:
    """Return the heads of a segmentor by their names in the config; the last of a cascade decides."""
    heads = {}
    for name in ('decode_head', 'auxiliary_head'):
        parts = cfg.model.get(name) or ()
        for head in parts if isinstance(parts, (list, tuple)) else (parts,):
            heads[name] = head
    return heads
