"""Look at every image and mask of a config before training on them.

    python tools/check_dataset.py configs/pspnet_repvgg_a0_demo.py

says what is wrong, where, and what cures it: missing, damaged, turned or doubled files, masks that are no class
indices, labels outside the classes or off by one, classes that never occur, validation images that are trained on. A
chart of the classes and a contact sheet of each split go to --out: look at them. Copies are found by their pixels; a
copy that was resized or saved as JPEG again is not.

The exit status is 0, with or without warnings, and 2 if there are errors.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from mmengine.config import Config, ConfigDict
from mmengine.dataset import BaseDataset
from mmseg.registry import DATASETS
from mmseg.utils import register_all_modules
from PIL import ImageOps

from ..cli import add_workers
from ..data import pictures
from ..data.findings import Finding, Labels, Tally, leaks, strays
from ..data.masks import IMAGE_SUFFIXES
from ..data.report import Report
from ..data.samples import Reading, Sample, examine
from ..data.train_ids import SUFFIX
from ..files import atomic_write, walk, write_text
from ..image_files import open_image
from ..openmmlab.datasets import inner_data_sets, is_labelled
from ..parallel import parallel_map
from .config import add_config, default_work_dir, load_config

LOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')
QUICK_SAMPLES = 16  # of each split, looked at before a training
SHEET_SAMPLES = 12  # of each split, on the contact sheet


Item = TypeVar('Item')


@dataclass(frozen=True)
class Split:
    """The samples of one data set of a config, and how they are read."""

    name: str
    dataset: BaseDataset
    pairs: Sequence[tuple[str, str]]  # (image, mask)
    labels: Labels
    reading: Reading


def list_splits(cfg: Config, loader: str) -> list[Split]:
    """Return the labelled data sets that a loader of `cfg` reads: one, or several where they are joined.

    Raises:
        FileNotFoundError: a folder does not exist, or holds no file with the suffixes of the data set.
    """
    configs = [part for part in inner_data_sets(cfg[loader].dataset) if is_labelled(part)]
    name = loader.removesuffix('_dataloader')
    names = [name if len(configs) == 1 else f'{name}[{i}]' for i in range(len(configs))]
    return [_list_split(cfg, dataset, loader, name) for name, dataset in zip(names, configs, strict=True)]


def check_data(cfg: Config, *loaders: str) -> None:
    """Check that the folders which `loaders` of `cfg` read hold data, of no more classes than the heads tell apart.

    Raises:
        FileNotFoundError: one holds none; the message says which and what to do.
        ValueError: there are more classes.
    """
    for loader in loaders:
        for split in list_splits(cfg, loader) if loader in cfg else ():
            for finding in _head_findings(cfg, split):
                if finding.severity == 'error':
                    raise ValueError(str(finding))


def check_quickly(cfg: Config) -> None:
    """Refuse what cannot train: looks at the list of all files and at some samples, those of training without pixels.

    Raises:
        FileNotFoundError: there is no data.
        ValueError: a mask is missing or does not fit its image or the classes, or there are more classes than outputs.
    """
    found: list[Finding] = []
    for loader in ('train_dataloader', 'val_dataloader'):
        for split in list_splits(cfg, loader) if loader in cfg else ():
            found += _head_findings(cfg, split)
            tally = Tally(split.name, split.labels, split.reading)
            missing = [pair for pair in split.pairs if not os.path.exists(pair[1])]
            # A training skips what it cannot read, and says so; a validation cannot.
            training = loader == 'train_dataloader'
            skipped = ('unreadable_image', 'unreadable_mask') if training else ()
            for image, mask in missing or spread(split.pairs, QUICK_SAMPLES):
                tally.add(
                    Sample(image, mask, image_mode='RGB', mask_missing=True)
                    if missing
                    else examine((image, mask), reading=split.reading, pixels=not training)
                )
            found += [finding for finding in tally.findings(whole=False) if finding.check not in skipped]
    errors = [finding for finding in found if finding.severity == 'error']
    if errors:
        more = f' ({len(errors) - 1} more of other kinds)' if len(errors) > 1 else ''
        raise ValueError(f'{errors[0]}{more}. "python tools/check_dataset.py CONFIG" looks at everything')


def check_dataset(cfg: Config, *, out_dir: str | Path | None = None, workers: int | None = None) -> Report:
    """Look at every image and mask of `cfg` and return what was found; pictures go to `out_dir`, if there is one.

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
    tallies = []
    findings: list[Finding] = []
    for split in splits:
        tally = Tally(split.name, split.labels, split.reading)
        look = partial(examine, reading=split.reading)
        for sample in parallel_map(look, split.pairs, workers=workers, description=f'Looking at {split.name}'):
            tally.add(sample)
        tallies.append(tally)
        findings += [*_head_findings(cfg, split), *_stray_findings(split), *tally.findings()]
    for train in tallies:
        for other in tallies:
            if train.split.startswith('train') and not other.split.startswith('train'):
                findings += leaks(train, other)
    if out_dir is not None:
        _write_pictures(Path(out_dir), splits, tallies)
    return Report(tallies, findings)


def _write_pictures(folder: Path, splits: Sequence[Split], tallies: Sequence[Tally]) -> None:
    """Write a chart of the classes, and a contact sheet of each split that has samples to show."""
    tables = {tally.split: tally.class_table() for tally in tallies}
    chart = pictures.frequency_chart(tables, splits[0].labels.palette)
    for name, content in (('class_frequencies', chart), *((split.name, _contact_sheet(split)) for split in splits)):
        if content:
            with atomic_write(folder / f'{name}.png') as file:
                file.write(content)


def spread(items: Sequence[Item], number: int) -> list[Item]:
    """Return `number` of `items`, spread evenly over them; all of them if there are no more."""
    return [items[i * len(items) // number] for i in range(number)] if len(items) > number else list(items)


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
    prefix = {key: Path(folder) for key, folder in built.data_prefix.items() if folder}
    if not pairs:
        raise _no_data(loader, 'img_path', prefix['img_path'], f'holds no {_pattern(built, "img_suffix")}')
    if not any(os.path.exists(mask) for _, mask in pairs):
        state = f'holds no {_pattern(built, "seg_map_suffix")} of these images'
        if pairs[0][1].endswith(SUFFIX):
            state += f' (made from labelIds or polygons by "python tools/make_train_ids.py {root}")'
        raise _no_data(loader, 'seg_map_path', prefix.get('seg_map_path', Path(root)), state)
    steps = {step['type']: step for step in dataset.get('pipeline', [])}
    image_step = steps.get('LoadImageFromFile') or steps.get('LoadCachedImage') or {}
    mask_step = steps.get('LoadAnnotations') or steps.get('LoadCachedAnnotations') or {}
    head = _heads(cfg).get('decode_head', {})
    names = built.metainfo.get('classes') or tuple(f'class {i}' for i in range(head.get('num_classes', 0)))
    return Split(
        name,
        built,
        pairs,
        Labels(
            tuple(names),
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
    )


def _no_data(loader: str, key: str, path: Path, state: str) -> FileNotFoundError:
    return FileNotFoundError(
        f'no data for {loader} ({key}): {path} {state}. Put the data set there, point to it with --cfg-options '
        'data_root=DIR, or make a procedural one in Cityscapes\' layout with "python tools/make_demo_data.py".'
    )


def _suffixes(dataset: BaseDataset, key: str) -> tuple[str, ...]:
    """Return how file names of a data set end: one way or several."""
    suffix = getattr(dataset, key, '')
    return (suffix,) if isinstance(suffix, str) else tuple(suffix)


def _pattern(dataset: BaseDataset, key: str) -> str:
    return ' or '.join(f'*{suffix}' for suffix in _suffixes(dataset, key))


def _heads(cfg: Config) -> dict[str, ConfigDict]:
    """Return the heads of a segmentor by their names in the config; the last of a cascade decides."""
    heads = {}
    for name in ('decode_head', 'auxiliary_head'):
        parts = cfg.model.get(name) or ()
        for head in parts if isinstance(parts, (list, tuple)) else (parts,):
            heads[name] = head
    return heads


def _head_findings(cfg: Config, split: Split) -> Iterator[Finding]:
    n = len(split.labels.classes)
    for name, head in _heads(cfg).items():
        outputs = head.get('num_classes', n)
        what = f'the data set names {n} classes, and {name} has outputs for {outputs}'
        if n > outputs:
            cure = f'set model.{name}.num_classes={n}, or name the classes to learn: metainfo=dict(classes=(...))'
            yield Finding('error', 'more_classes', split.name, what, cure)
        elif n < outputs:
            cure = f'set model.{name}.num_classes={n}, unless the others are to stay unused'
            yield Finding('warning', 'fewer_classes', split.name, what, cure)


def _stray_findings(split: Split) -> Iterator[Finding]:
    """Yield files in the folders of a split that it does not read; a list of names means to leave some out."""
    prefix = split.dataset.data_prefix
    if split.dataset.ann_file or not prefix.get('img_path') or not prefix.get('seg_map_path'):
        return
    images, masks = ({os.path.normpath(path) for path in side} for side in zip(*split.pairs, strict=True))
    mask_folder = os.path.normpath(prefix['seg_map_path'])
    extra = [p for p in _files(mask_folder, _suffixes(split.dataset, 'seg_map_suffix')) if p not in masks | images]
    yield from strays(
        split.name, 'extra_mask', 'masks without an image: {}', 'add the images, or remove these masks', extra
    )
    image_folder = os.path.normpath(prefix['img_path'])
    if Path(image_folder) in (Path(mask_folder), *Path(mask_folder).parents):
        return  # masks of other kinds lie there as well
    unused = [p for p in _files(image_folder, IMAGE_SUFFIXES) if p not in images | masks]
    yield from strays(
        split.name, 'unused_image', f'images other than {_pattern(split.dataset, "img_suffix")}, not used: {{}}',
        'rename or convert them, or set img_suffix', unused,
    )  # fmt: skip


def _files(folder: str, suffixes: tuple[str, ...]) -> Iterator[str]:
    return map(str, walk(folder, suffixes))


def _contact_sheet(split: Split) -> bytes:
    """Return some samples of a split under their labels as a PNG file; empty if none can be drawn."""
    cells, shown = [], set()
    labels = split.labels
    for image, mask in spread(split.pairs, SHEET_SAMPLES):
        try:
            with open_image(image) as file:
                upright = ImageOps.exif_transpose(file) if split.reading.turns_images else file
                pixels = np.asarray(upright.convert('RGB'))
            with open_image(mask) as file:
                numbers = np.asarray(file)
        except Exception:  # what cannot be read is in the report
            continue
        if numbers.shape != pixels.shape[:2]:
            continue
        trained = labels.trained[numbers.astype(np.uint8)].astype(np.int16)
        trained[trained >= len(labels.classes)] = pictures.IGNORED
        shown |= set(np.unique(trained).tolist())
        cells.append((pictures.overlay(pixels, trained, labels.palette), os.path.basename(image)))
    if not cells:
        return b''
    sheet = pictures.contact_sheet(cells)
    return pictures.png(
        pictures.stacked(sheet, pictures.legend(labels.classes, labels.palette, sorted(shown), width=sheet.shape[1]))
    )


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config(parser)
    parser.add_argument('--out', metavar='DIR', help='where pictures go (default: work_dirs/NAME_OF_CONFIG/data)')
    parser.add_argument('--json', metavar='FILE', help='write all figures there')
    add_workers(parser)


def main(args: argparse.Namespace) -> None:
    """Report what was found.

    Raises:
        ValueError: there are errors.
    """
    cfg = load_config(args.config, args.cfg_options)
    out_dir = args.out or Path(default_work_dir(cfg), 'data')
    report = check_dataset(cfg, out_dir=out_dir, workers=args.workers)
    print(report)
    print(f'pictures: {out_dir}')
    if args.json:
        write_text(json.dumps({'config': args.config, **report.data()}, indent=2) + '\n', args.json)
    if report.errors:
        raise ValueError(f'{args.config} should not be trained on this data before the errors above are cured')
