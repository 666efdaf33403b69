"""A config's segmentor: train-time, deployed, and deployed in each runtime and precision.

Model only, from uint8 images to class maps; and from an image file to its mask, mmseg's `inference_model` on the
train-time model, with mmseg's own heads and with ours, against the Segmenter on exported files.
"""

from __future__ import annotations

import argparse
import copy
import functools
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from mmseg.apis import inference_model

from ..apps.config import add_config
from ..deploy.convert import convert_segmentor, is_deployed, require_blocks, synthetic_images
from ..deploy.graph import InferenceGraph, fold_norms
from ..openmmlab.heads import unfolded
from ..runtime.images import read_image
from ..runtime.segmenter import Segmenter
from ..timing import measure_latency
from ..weights.pretrained import load_weights, resolve
from ..workflows.config import build_segmentor, load_config
from ..workflows.work_dir import find_checkpoint
from . import runtimes
from .report import LATENCY, Row, speed_ups, timed
from .runtimes import Candidate

END_TO_END, EAGER = 'image file to mask', 'torch fp32'
MMSEG = "mmseg inference_model, train-time, mmseg's heads"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    add_config(parser)
    parser.add_argument(
        '--checkpoint', metavar='FILE|DIR', help='its weights, a file or a work directory (default: random ones)'
    )
    parser.add_argument('--image', metavar='FILE', help='image file of the end-to-end comparison (default: synthetic)')
    runtimes.add_arguments(parser)


def run(args: argparse.Namespace) -> list[Row]:
    """Measure latencies of the model only and end to end, memory, and the agreement of the masks.

    Raises:
        FileNotFoundError: the config, the checkpoint or the image is not there.
        ValueError: the config's model is not a train-time RepVGG segmentor, or there is nothing to time.
    """
    cfg = load_config(args.config, args.cfg_options)
    chosen, images = runtimes.chosen(args)
    image = read_image(args.image) if args.image else synthetic_images(args.size)[0].numpy()
    original = build_segmentor(cfg)
    require_blocks(original)
    if is_deployed(original):
        raise ValueError(f'{args.config} describes a deployed model already: name the config it was trained with')
    if args.checkpoint:
        load_weights(original, resolve(find_checkpoint(args.checkpoint)))
    converted = convert_segmentor(original)

    def deployed() -> InferenceGraph:
        return InferenceGraph(fold_norms(converted))

    name = Path(args.config).stem
    # As trained, in eager float32; all others are of the deployed form.
    eager = runtimes.runtimes()[EAGER]
    candidates = [Candidate(name, 'train-time', eager, lambda: InferenceGraph(copy.deepcopy(original)))]
    candidates += [Candidate(name, 'deployed', runtime, deployed) for runtime in chosen]
    with tempfile.TemporaryDirectory(prefix='benchmark-') as folder:
        rows = runtimes.measure(candidates, images, args.runs, Path(folder))
        ran = {row.runtime for row in rows if row.metric == LATENCY}
        plain = build_segmentor(unfolded(cfg))
        plain.load_state_dict(original.state_dict())
        models = {
            MMSEG: plain,
            'mmseg inference_model, train-time': original,
            'mmseg inference_model, deployed': converted,
        }
        path = str(Path(folder, 'image.png'))
        cv2.imwrite(path, cv2.resize(image, args.size[::-1])[..., ::-1])
        # All ways see the image as it is: the config's test pipeline, without what resizes it.
        cfg.test_pipeline = [dict(type='LoadImageFromFile'), dict(type='PackSegInputs')]
        ways: dict[tuple[str, str], Callable[[], Any]] = {}
        for form, model in models.items():
            model.cfg = cfg
            model.to(images.device)
            ways[form, EAGER] = functools.partial(_mmseg_mask, model, path)
        for candidate in candidates:
            file = candidate.file(Path(folder))
            if file and candidate.runtime.name in ran:
                segmenter = Segmenter(file, backend=candidate.runtime.engine, trust=True)
                ways['Segmenter', candidate.runtime.name] = functools.partial(segmenter, path)
        masks = {key: way() for key, way in ways.items()}
        latencies = measure_latency(ways, runs=args.runs)
    facts: dict[str, Any] = {'size': 'x'.join(map(str, args.size)), 'batch': 1}
    end_to_end = [timed(latency, name, *key, END_TO_END, **facts) for key, latency in latencies.items()]
    times = [row for row in rows if row.metric == LATENCY] + end_to_end
    first, *_ = masks.values()
    same = [float((mask == first).mean()) for mask in masks.values()]
    return [
        *times,
        *speed_ups(times, lambda row: row.variant in ('train-time', MMSEG)),
        *(row.derived('same mask', 100 * share, '%') for row, share in zip(end_to_end, same, strict=True)),
        *(row for row in rows if row.metric != LATENCY),
    ]


def _mmseg_mask(model: Any, path: str) -> np.ndarray[Any, Any]:
    return inference_model(model, path).pred_sem_seg.data[0].cpu().numpy()
