"""The latency of a config's segmentor: train-time, deployed, and deployed in each runtime and precision.

Model only, from uint8 images to class maps; and from an image file to its mask, mmseg's `inference_model` on the
train-time model, with mmseg's own heads and with ours, against the Segmenter on exported files.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from mmseg.apis import inference_model

from ..apps.config import add_cfg_options, build_segmentor, find_checkpoint, load_config
from ..deploy.convert import convert_segmentor, require_blocks, synthetic_images
from ..deploy.graph import InferenceGraph, fold_norms
from ..openmmlab.heads import unfolded
from ..runtime.images import Array, read_image
from ..runtime.segmenter import Segmenter
from ..weights.pretrained import load_weights, resolve
from . import runtimes
from .machine import describe_machine
from .plots import bar_chart
from .runtimes import Candidate, Runtime
from .timing import measure_latency

PACKAGES = ('onnxruntime', 'openvino', 'onedl-mmsegmentation')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `tools/benchmark.py latency`."""
    parser.add_argument('config', help='config of a segmentor in its train-time form')
    parser.add_argument('--checkpoint', help='its weights, a file or a work directory (default: random ones)')
    parser.add_argument('--image', help='image file of the end-to-end comparison (default: synthetic)')
    add_cfg_options(parser)
    runtimes.add_arguments(parser)


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time what the command line asks for.

    Returns plain data: latencies in milliseconds, memory in MiB, agreement of the masks, and what it was measured on.

    Raises:
        FileNotFoundError: the config, the checkpoint or the image is not there.
        ValueError: the config's model is no train-time RepVGG segmentor, or there is nothing to time.
    """
    cfg = load_config(args.config, args.cfg_options)
    if cfg.model.backbone.get('deploy'):
        raise ValueError(f'{args.config} describes a deployed model already: name the config it was trained with')
    runtimes.check_input(args.size, args.batch, args.runs)
    image = read_image(args.image) if args.image else synthetic_images(args.size)[0].numpy()
    chosen, missing = runtimes.chosen(args.runtimes)
    original = build_segmentor(cfg)
    require_blocks(original)
    if args.checkpoint:
        load_weights(original, resolve(find_checkpoint(args.checkpoint)))
    converted = convert_segmentor(original)
    images = runtimes.random_images(args.size, args.batch)

    def deployed() -> InferenceGraph:
        return InferenceGraph(fold_norms(converted))

    # As trained, in eager float32; all others are of the deployed form.
    eager = Runtime('torch fp32', 'torch', 'fp32')
    candidates = {'train-time, torch fp32': Candidate(lambda: InferenceGraph(original), eager)}
    candidates |= {f'deployed, {runtime.name}': Candidate(deployed, runtime) for runtime in chosen}
    with tempfile.TemporaryDirectory(prefix='benchmark-') as folder:
        paths, failed = runtimes.write_files(candidates, images, Path(folder))
        candidates = {name: candidate for name, candidate in candidates.items() if name not in failed}
        calls, memory = runtimes.open_all(candidates, images, paths)
        latencies = measure_latency(calls, runs=args.runs)
        del calls
        plain = build_segmentor(unfolded(cfg))
        plain.load_state_dict(original.state_dict())
        models = {"train-time, mmseg's heads": plain, 'train-time': original, 'deployed': converted}
        segmenters = {
            candidates[name].runtime.name: Segmenter(path, backend=candidates[name].runtime.engine, trust=True)
            for name, path in paths.items()
        }
        end_to_end = _end_to_end(cfg, models, segmenters, cv2.resize(image, args.size[::-1]), args.runs, Path(folder))
    first, *others = latencies
    return {
        'config': Path(args.config).name,
        'options': args.cfg_options or {},
        'weights': Path(args.checkpoint).name if args.checkpoint else 'random',
        'input': list(images.shape),
        'latency': {name: {**asdict(latency), 'peak_memory_mib': memory[name]} for name, latency in latencies.items()},
        'speedup': {name: latencies[first].p50_ms / latencies[name].p50_ms for name in others},
        'end_to_end': end_to_end,
        'not_measured': missing | failed,
        **describe_machine(*PACKAGES),
    }


def _end_to_end(
    cfg: Any, models: Mapping[str, Any], segmenters: Mapping[str, Segmenter], rgb: Array, runs: int, folder: Path
) -> dict[str, Any]:
    """Time the ways from the file of an image (H, W, 3) to its mask, and compare the masks with mmseg's."""
    image = str(folder / 'image.png')
    cv2.imwrite(image, rgb[..., ::-1])
    # All ways see the image as it is: the config's test pipeline, without what resizes it.
    cfg.test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
    ways: dict[str, Callable[[], Any]] = {}
    for name, model in models.items():
        model.cfg = cfg
        model.to('cuda' if torch.cuda.is_available() else 'cpu')
        ways[f'mmseg inference_model, {name}'] = functools.partial(_mmseg_mask, model, image)
    ways |= {f'Segmenter, {name}': functools.partial(segmenter, image) for name, segmenter in segmenters.items()}
    masks = {name: way() for name, way in ways.items()}
    reference, *_ = masks.values()
    latencies = measure_latency(ways, runs=runs)
    first, *_ = latencies.values()
    return {
        name: {
            **asdict(latency),
            'speedup': first.p50_ms / latency.p50_ms,
            'agreement': float((masks[name] == reference).mean()),
        }
        for name, latency in latencies.items()
    }


def _mmseg_mask(model: Any, path: str) -> np.ndarray[Any, Any]:
    return inference_model(model, path).pred_sem_seg.data[0].cpu().numpy()


def table(result: dict[str, Any]) -> str:
    """Return the result as lines of text."""
    lines = [f'{"from images to class maps":<44}{"p50 ms":>9}{"p95 ms":>9}{"faster":>8}{"peak MiB":>10}']
    for name, t in result['latency'].items():
        faster = result['speedup'].get(name, 1)
        memory = f'{t["peak_memory_mib"]:.0f}' if t['peak_memory_mib'] is not None else '?'
        lines.append(f'{name:<44}{t["p50_ms"]:>9.1f}{t["p95_ms"]:>9.1f}{faster:>7.2f}x{memory:>10}')
    lines.append(f'\n{"from an image file to its mask":<44}{"p50 ms":>9}{"p95 ms":>9}{"faster":>8}{"same mask":>11}')
    for name, t in result['end_to_end'].items():
        lines.append(f'{name:<44}{t["p50_ms"]:>9.1f}{t["p95_ms"]:>9.1f}{t["speedup"]:>7.2f}x{t["agreement"]:>11.4%}')
    lines += [f'not measured: {name} ({why})' for name, why in result['not_measured'].items()]
    size = 'x'.join(str(n) for n in result['input'])
    return '\n'.join(
        [*lines, f'\ninput {size}, {result["weights"]} weights, {result["device"]}, {result["threads"]} threads']
    )


def plot(result: dict[str, Any], path: str) -> None:
    """Draw the medians."""
    groups = {
        'model only': {name: t['p50_ms'] for name, t in result['latency'].items()},
        'end to end': {name: t['p50_ms'] for name, t in result['end_to_end'].items()},
    }
    title = f'{Path(result["config"]).stem}, {"x".join(map(str, result["input"][1:3]))}, {result["device"]}'
    bar_chart(groups, path, title=title, unit='median latency, ms')
