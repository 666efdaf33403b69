"""How fast a config's training data arrive: mmseg's own transforms beside those of the config."""

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
from mmengine.config import Config, ConfigDict
from mmengine.runner import Runner
from mmseg.registry import DATASETS, TRANSFORMS
from mmseg.utils import register_all_modules
from PIL import Image
from rich.console import Console
from rich.progress import track

from ..apps.check_dataset import check_data
from ..apps.config import add_cfg_options, load_config
from ..openmmlab.image_cache import read
from .machine import describe_machine

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
    """Declare the options of `tools/benchmark.py data`."""
    parser.add_argument('config', help='config of a segmentor')
    parser.add_argument('--images', type=int, default=16, help='samples that are loaded (default: 16)')
    parser.add_argument('--rounds', type=int, default=4, help='times that each is loaded and counted (default: 4)')
    parser.add_argument(
        '--workers', type=int, default=os.cpu_count(), help='processes of the data loader (default: one a processor)'
    )
    add_cfg_options(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time what the command line asks for."""
    cfg = load_config(args.config, args.cfg_options)
    return compare_pipelines(cfg, images=args.images, rounds=args.rounds, workers=args.workers)


def compare_pipelines(cfg: Config, *, images: int = 16, rounds: int = 4, workers: int = 1) -> dict[str, Any]:
    """Time the training pipeline of `cfg` by mmseg's transforms, by ours and, where there is a cache, by ours with it.

    Files are read once before, so that they come from memory. Returns plain data: of each pipeline the mean
    milliseconds an image of each stage in one thread, of each image the fastest round, and images a second through the
    data loader.

    Raises:
        ValueError: the config's pipeline has nothing to compare, or there is nothing to time.
        FileNotFoundError: the data is not there.
    """
    if min(images, rounds, workers) < 1:
        raise ValueError(f'there is nothing to time with {images} images, {rounds} rounds and {workers} workers')
    register_all_modules()
    check_data(cfg, 'train_dataloader')
    loader = cfg.train_dataloader
    pipelines = _pipelines(loader.dataset.pipeline)
    dataset = DATASETS.build(loader.dataset)
    samples = [dataset.get_data_info(i % len(dataset)) for i in range(images)]
    if not all(_is_cached(sample, pipelines[CACHED]) for sample in samples):
        del pipelines[CACHED]
    with Image.open(samples[0]['img_path']) as image:
        size = [image.height, image.width]
    threads = cv2.getNumThreads(), torch.get_num_threads()
    try:
        cv2.setNumThreads(0)  # as in a worker of the data loader
        torch.set_num_threads(1)
        stages = _time_stages(pipelines, samples, rounds)
        rates = _time_loaders(pipelines, loader, images, rounds, workers)
    finally:
        cv2.setNumThreads(threads[0])
        torch.set_num_threads(threads[1])
    totals = {name: sum(times.values()) for name, times in stages.items()}
    return {
        'config': cfg.filename,
        'image': size,
        'images': images,
        'rounds': rounds,
        'workers': workers,
        'stages_ms': stages,
        'total_ms': totals,
        'speedup': {name: totals[MMSEG] / total for name, total in totals.items()},
        'loader_images_s': rates,
        **describe_machine('opencv-python-headless', 'albumentations', 'numpy', 'pillow'),
    }


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
    """Return the mean milliseconds a sample of each stage, of each sample the fastest round.

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


def table(result: dict[str, Any]) -> str:
    """Return the result as lines of text."""
    names = list(result['stages_ms'])
    stages = [stage for stage in (*STAGES, OTHER) if any(stage in result['stages_ms'][name] for name in names)]
    lines = [f'{"ms an image, one thread":<28}' + ''.join(f'{name:>14}' for name in names)]
    for stage in stages:
        times = (result['stages_ms'][name].get(stage, 0.0) for name in names)
        lines.append(f'{stage:<28}' + ''.join(f'{ms:>14.2f}' for ms in times))
    lines.append(f'{"total":<28}' + ''.join(f'{result["total_ms"][name]:>14.2f}' for name in names))
    lines.append(f'{"times as fast":<28}' + ''.join(f'{result["speedup"][name]:>14.2f}' for name in names))
    rates = ''.join(f'{result["loader_images_s"][name]:>14.1f}' for name in names)
    lines.append(f'{"images/s, {} workers".format(result["workers"]):<28}' + rates)
    height, width = result['image']
    lines.append(f'{result["images"]} images of {height}x{width}, {result["rounds"]} rounds; {result["device"]}')
    if CACHED not in names:
        lines.append('There is no cache of these images: tools/cache_dataset.py makes one.')
    return '\n'.join(lines)


def plot(result: dict[str, Any], path: str | Path) -> None:
    """Draw the stages of each pipeline as one bar."""
    import matplotlib

    matplotlib.use('Agg')
    import matplotlib.pyplot as plt

    names = list(result['stages_ms'])
    figure, axes = plt.subplots(figsize=(7, 0.6 * len(names) + 1.2), layout='constrained')
    left = np.zeros(len(names))
    for stage in (*STAGES, OTHER):
        times = np.array([result['stages_ms'][name].get(stage, 0.0) for name in names])
        if times.any():
            axes.barh(names, times, left=left, label=stage)
            left += times
    for y, total in enumerate(left):
        axes.text(total, y, f' {total:.1f}', va='center')
    axes.invert_yaxis()
    axes.set_xlim(0, 1.12 * left.max())
    axes.set_xlabel('ms an image, one thread')
    axes.spines[['top', 'right']].set_visible(False)
    axes.legend(frameon=False, fontsize='small', ncols=2, loc='lower right')
    figure.savefig(path, dpi=110)
    plt.close(figure)
