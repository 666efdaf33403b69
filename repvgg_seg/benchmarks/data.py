"""A config's training data: mmseg's own transforms beside those of the config."""

from __future__ import annotations

import argparse
import copy
import itertools
import math
import os
import statistics
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmengine.config import ConfigDict
from mmengine.runner import Runner
from mmseg.registry import DATASETS, TRANSFORMS
from mmseg.utils import register_all_modules
from PIL import Image
from rich.console import Console
from rich.progress import track

from ..apps.config import add_config
from ..openmmlab.image_cache import read
from ..workflows.config import load_config
from ..workflows.splits import check_data
from .report import THROUGHPUT, Row, speed_ups

# The stages of a pipeline, and which transforms, ours and mmseg's, belong to each.
STAGES = {
    'image': ('LoadImageFromFile', 'LoadCachedImage'),
    'mask': ('LoadAnnotations', 'LoadCachedAnnotations'),
    'resize and crop': ('RandomResize', 'RandomCrop', 'ResizeAndCrop'),
    'flip': ('RandomFlip',),
    'photometric': ('PhotoMetricDistortion', 'AlbuPhotoMetricDistortion'),
    'pack': ('PackSegInputs',),
}
OTHER = 'other'
MMSEG, DECODED, CACHED = 'mmseg', 'ours', 'ours, cached'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config(parser)
    parser.add_argument('--samples', type=int, default=16, metavar='N', help='samples that are loaded (default: 16)')
    parser.add_argument(
        '--rounds', type=int, default=4, metavar='N', help='times that each is loaded and counted (default: 4)'
    )
    parser.add_argument(
        '--workers',
        type=int,
        default=os.cpu_count(),
        metavar='N',
        help='processes of the data loader (default: one per processor)',
    )


def run(args: argparse.Namespace) -> list[Row]:
    """Time the training pipeline by mmseg's transforms, by ours and, where there is a cache, by ours with it.

    Files are read once before, so that they come from memory. Rows are, for each pipeline, the mean milliseconds per
    image of each stage in one thread (for each image its fastest round), and the images per second of the data loader.

    Raises:
        ValueError: the config's pipeline has nothing to compare, or there is nothing to time.
        FileNotFoundError: the data is not there.
    """
    if min(args.samples, args.rounds, args.workers) < 1:
        raise ValueError(
            f'there is nothing to time with {args.samples} samples, {args.rounds} rounds and {args.workers} workers'
        )
    cfg = load_config(args.config, args.cfg_options)
    register_all_modules()
    check_data(cfg, 'train_dataloader')
    loader = cfg.train_dataloader
    pipelines = _pipelines(loader.dataset.pipeline)
    dataset = DATASETS.build(loader.dataset)
    samples = [dataset.get_data_info(i % len(dataset)) for i in range(args.samples)]
    cached = all(_is_cached(sample, pipelines[CACHED]) for sample in samples)
    if not cached:
        del pipelines[CACHED]
    with Image.open(samples[0]['img_path']) as image:
        size = f'{image.height}x{image.width}'
    threads = cv2.getNumThreads(), torch.get_num_threads()
    try:
        cv2.setNumThreads(0)  # as in a worker of the data loader
        torch.set_num_threads(1)
        stages = _time_stages(pipelines, samples, args.rounds)
        rates = _time_loaders(pipelines, loader, args.samples, args.rounds, args.workers)
    finally:
        cv2.setNumThreads(threads[0])
        torch.set_num_threads(threads[1])
    name, facts = Path(args.config).stem, {'size': size, 'samples': args.samples, 'runs': args.rounds}
    one, several = facts | {'threads': 1}, facts | {'workers': args.workers}
    totals = [Row(name, key, '', 'total', sum(times.values()), 'ms', one) for key, times in stages.items()]
    missing = {'note': 'there is no cache of these images: `repvgg-seg cache-dataset` makes one'}
    return [
        *(Row(name, key, '', stage, ms, 'ms', one) for key, times in stages.items() for stage, ms in times.items()),
        *totals,
        *speed_ups(totals, lambda row: row.variant == MMSEG),
        *(Row(name, key, '', THROUGHPUT, rate, 'images/s', several) for key, rate in rates.items()),
        *([] if cached else [Row(name, CACHED, '', 'total', None, 'ms', one | missing)]),
    ]


Pipeline = list[dict[str, Any]]


def _pipelines(pipeline: Pipeline) -> dict[str, Pipeline]:
    """Return `pipeline` by mmseg's transforms, by ours without a cache, and as it is."""
    mmseg: Pipeline = []
    for transform in pipeline:
        options = dict(transform)
        match options.pop('type'):
            case 'LoadCachedImage':
                mmseg.append({'type': 'LoadImageFromFile', **options})
            case 'LoadCachedAnnotations':
                mmseg.append({'type': 'LoadAnnotations', **options})
            case 'ResizeAndCrop':
                resize = {'scale': options.pop('scale'), 'ratio_range': options.pop('ratio_range')}
                mmseg += [{'type': 'RandomResize', **resize, 'keep_ratio': True}, {'type': 'RandomCrop', **options}]
            case 'AlbuPhotoMetricDistortion':
                mmseg.append({'type': 'PhotoMetricDistortion', **options})
            case _:
                mmseg.append(transform)
    if mmseg == pipeline:
        raise ValueError("the training pipeline is made of mmseg's own transforms: there is nothing to compare")
    loaders = [t for t in mmseg if t['type'] in ('LoadImageFromFile', 'LoadAnnotations')]
    decoded = loaders + [t for t in pipeline if t['type'] not in (*STAGES['image'], *STAGES['mask'])]
    return {MMSEG: mmseg, DECODED: decoded, CACHED: pipeline}


def _is_cached(sample: dict[str, Any], pipeline: Pipeline) -> bool:
    sources = {'LoadCachedImage': sample['img_path'], 'LoadCachedAnnotations': sample['seg_map_path']}
    loaders = [t for t in pipeline if t['type'] in sources]
    return all(read(sources[t['type']], TRANSFORMS.build(t).decoding) is not None for t in loaders)


def _time_stages(
    pipelines: dict[str, Pipeline], samples: list[dict[str, Any]], rounds: int
) -> dict[str, dict[str, float]]:
    """Return the mean milliseconds per sample of each stage; for each sample its fastest round counts.

    Pipelines take turns, and a sample has the same random numbers in all of them and in each round.
    """
    stage_of = {name: stage for stage, names in STAGES.items() for name in names}
    built = {
        name: [(stage_of.get(t['type'], OTHER), TRANSFORMS.build(t)) for t in pipeline]
        for name, pipeline in pipelines.items()
    }
    fastest: dict[str, dict[str, list[float]]] = {
        name: {stage: [math.inf] * len(samples) for stage, _ in transforms} for name, transforms in built.items()
    }
    turns = list(itertools.product(range(rounds + 1), range(len(samples))))  # the first round warms up
    for round_, i in track(turns, 'stages', console=Console(stderr=True), transient=True):
        for name, transforms in built.items():
            np.random.seed(i)
            results = copy.deepcopy(samples[i])
            seconds = dict.fromkeys(fastest[name], 0.0)
            for stage, transform in transforms:
                start = time.perf_counter()
                results = transform(results)
                seconds[stage] += time.perf_counter() - start
            if round_:
                for stage, values in fastest[name].items():
                    values[i] = min(values[i], seconds[stage])
    return {
        name: {stage: 1e3 * statistics.fmean(values) for stage, values in stages.items()}
        for name, stages in fastest.items()
    }


def _time_loaders(
    pipelines: dict[str, Pipeline], cfg: ConfigDict, images: int, rounds: int, workers: int
) -> dict[str, float]:
    """Return images a second through the data loader, after each worker has delivered what it prepares ahead."""
    rates = {}
    batches = max(1, rounds * images // cfg.batch_size)
    for name, pipeline in track(pipelines.items(), 'loaders', console=Console(stderr=True), transient=True):
        changed = copy.deepcopy(cfg)
        changed.update(num_workers=workers, persistent_workers=False, sampler={'type': 'InfiniteSampler'})
        changed.dataset.update(pipeline=pipeline, indices=images)
        batch = iter(Runner.build_dataloader(changed, seed=0))
        for _ in range(3 * workers):
            next(batch)
        start = time.perf_counter()
        for _ in range(batches):
            next(batch)
        rates[name] = batches * cfg.batch_size / (time.perf_counter() - start)
        del batch  # ends its workers
    return rates
