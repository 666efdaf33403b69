"""Decode a config's training images and masks once, so that training maps them into memory instead of decoding PNGs.

    python tools/cache_dataset.py configs/pspnet_repvgg_b2_cityscapes.py

Writes to .decoded in the folder of the data set: 8.4 MB a sample of 2048x1024 pixels, 25 GB for Cityscapes' training
set. It says how much before it begins, and refuses what the disk has no room for; to use another disk, make .decoded a
link to a folder there. Killed, the next call goes on. A training sees by size and time of change what is new in the
data set and decodes it as ever, until the next call renews the cache; --verify compares all hashes instead. To be rid
of the cache, remove the folder.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from mmengine.config import Config
from mmseg.registry import DATASETS, TRANSFORMS
from mmseg.utils import register_all_modules
from rich.console import Console
from rich.progress import track

from ..cli import add_workers
from ..files import atomic_write, sha256
from ..image_files import open_image
from ..locking import locked
from ..openmmlab.datasets import inner_data_sets
from ..openmmlab.image_cache import FOLDER, PAGE, Loader, entry, identity, open_entry
from ..terminal import say
from ..workflows.config import load_config
from ..workflows.splits import check_data
from .config import add_config

ABANDONED_S = 600  # a temporary file that nobody has written to for so long is of a process that was killed


@dataclass(frozen=True)
class Plan:
    """What is to be decoded into which folder."""

    folder: Path
    missing: dict[str, Loader]  # path of a source -> the loader that decodes it
    present: int  # sources with a valid entry
    bytes: int  # the size of what is missing
    free: int  # bytes on the disk


def plan_cache(cfg: Config, *, verify: bool = False) -> Plan:
    """Return what the cache of the training data of `cfg` lacks; `verify` compares all that is there with its hashes.

    Raises:
        FileNotFoundError: the data is not there.
        ValueError: the training pipeline does not load through the cache.
    """
    register_all_modules()
    check_data(cfg, 'train_dataloader')
    sources: dict[str, Loader] = {}
    for part in inner_data_sets(cfg.train_dataloader.dataset):
        steps = {step.type: step for step in part.pipeline}
        if not {'LoadCachedImage', 'LoadCachedAnnotations'} <= steps.keys():
            raise ValueError(
                f'the training pipeline of {cfg.filename} would not read a cache: let it begin with LoadCachedImage '
                'and LoadCachedAnnotations'
            )
        image_loader = TRANSFORMS.build(steps['LoadCachedImage'])
        mask_loader = TRANSFORMS.build(steps['LoadCachedAnnotations'])
        dataset = DATASETS.build(part)
        for info in map(dataset.get_data_info, range(len(dataset))):
            sources[os.path.abspath(info['img_path'])] = image_loader
            sources[os.path.abspath(info['seg_map_path'])] = mask_loader
    folder = Path(os.path.commonpath([os.path.dirname(path) for path in sources]), FOLDER)
    console = Console(stderr=True)
    missing = {
        path: loader
        for path, loader in track(sources.items(), 'looking', console=console, transient=True)
        if not _is_cached(path, loader, folder, verify)
    }
    size = sum(_size(path, loader) for path, loader in track(missing.items(), 'sizes', console=console, transient=True))
    free = shutil.disk_usage(folder if folder.is_dir() else folder.parent).free
    return Plan(folder, missing, len(sources) - len(missing), size, free)


def _is_cached(source: str, loader: Loader, folder: Path, verify: bool) -> bool:
    """Whether there is a valid entry; with `verify`, by the hashes of its source and of its pixels too."""
    try:
        header, pixels = open_entry(source, folder, loader.decoding)
    except (OSError, ValueError):
        return False
    return not verify or header['sha256'] == _hashes(source, pixels)


def _hashes(source: str, pixels: np.ndarray) -> list[str]:
    return [sha256(source), hashlib.sha256(pixels.data).hexdigest()]


def _size(source: str, loader: Loader) -> int:
    try:
        with open_image(source) as image:  # reads its header only
            return PAGE + image.width * image.height * loader.channels
    except (OSError, ValueError):  # reported when it is decoded
        return 0


def build_cache(plan: Plan, *, workers: int | None = None) -> None:
    """Decode what `plan` lacks, each entry whole or not at all; killed, it goes on where it was.

    Other processes may read the cache and even build it meanwhile.

    Raises:
        ValueError: the disk has no room for it, or some sources cannot be decoded; the others are cached then.
    """
    if plan.bytes > plan.free:
        raise ValueError(
            f'{plan.folder} would take {plan.bytes / 1e9:.1f} GB more, but its disk has {plan.free / 1e9:.1f} GB free: '
            'make room, or make that folder a link to one on a larger disk'
        )
    for path in plan.folder.rglob('.*.tmp'):
        with suppress(FileNotFoundError):  # another process has finished it
            if time.time() - path.stat().st_mtime > ABANDONED_S:
                path.unlink()
    # Threads: decoding, hashing and writing leave the interpreter to the others.
    pool = ThreadPoolExecutor(workers or os.cpu_count())
    try:
        results = pool.map(lambda source: _store(source, plan.missing[source], plan.folder), plan.missing)
        shown = track(results, 'decoding', len(plan.missing), console=Console(stderr=True), transient=True)
        faults = [fault for fault in shown if fault]
    finally:
        pool.shutdown(cancel_futures=True)
    if faults:
        raise ValueError(
            f'{len(faults)} of {len(plan.missing)} files cannot be decoded, first {faults[0]}: repair or remove them; '
            'all others are cached'
        )


def _store(source: str, loader: Loader, folder: Path) -> str:
    """Decode `source` into its entry; return what is wrong with it, if anything."""
    of = identity(source, loader.decoding)  # before it is read: a change meanwhile makes the entry invalid
    try:
        pixels = np.ascontiguousarray(loader.decode(source))
    except Exception as error:  # a broken file can raise nearly anything
        return f'{source} ({" ".join(str(error).split()) or type(error).__name__})'
    if pixels.dtype != np.uint8:
        return f'{source} ({pixels.dtype}, not 8 bits a channel)'
    header = {'of': of, 'shape': pixels.shape, 'sha256': _hashes(source, pixels)}
    with atomic_write(entry(source, folder)) as file:
        file.write(json.dumps(header).encode().ljust(PAGE))
        file.write(pixels.data)
    return ''


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config(parser)
    parser.add_argument('--verify', action='store_true', help='check all that is there by its hashes')
    add_workers(parser)


def main(args: argparse.Namespace) -> None:
    """Say what there is to do, and do it; of two at once, the second waits and does the rest."""
    cfg = load_config(args.config, args.cfg_options)
    plan = plan_cache(cfg, verify=args.verify)
    with locked(plan.folder / '.lock', 'wait for it', wait=True) as waited:
        if waited:
            plan = plan_cache(cfg, verify=args.verify)
        say(
            f'{plan.folder}: {plan.present} files are cached, {len(plan.missing)} are not and will take '
            f'{plan.bytes / 1e9:.2f} GB of {plan.free / 1e9:.1f} GB that are free'
        )
        build_cache(plan, workers=args.workers)
    say(f'all {plan.present + len(plan.missing)} files are cached')
