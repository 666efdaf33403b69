"""Measure on the device that is there; what is compared is timed in turn, in one run.

    python tools/benchmark.py latency configs/pspnet_repvgg_a0_demo.py --size 256x512 --json latency.json

`python tools/benchmark.py NAME --help` lists the options of a comparison. --json writes the figures with the hardware,
the versions and the date.
"""

from __future__ import annotations

import argparse
import importlib
import json

from ..cli import Parser
from ..files import write_text

# Name -> its module (add_arguments(parser), run(args) -> plain data, table(data) -> text and, where a picture helps,
# plot(data, path)) and what it compares.
COMPARISONS = {
    'classifiers': ('repvgg_seg.benchmarks.classifiers', 'ImageNet classifiers: RepVGG, ResNet and Swin'),
    'imagenet-data': (
        'repvgg_seg.benchmarks.imagenet_data',
        'the loading of ImageNet, ours and PIL',
    ),
    'data': ('repvgg_seg.benchmarks.data', "training pipelines of mmseg's transforms and of ours"),
    'latency': ('repvgg_seg.benchmarks.latency', 'a segmentor: train-time, deployed, and in each runtime'),
    'class-map': ('repvgg_seg.benchmarks.class_map', 'the class map with and without enlarged logits'),
    'roofline': ('repvgg_seg.benchmarks.roofline', 'graphs with the peak of the machine'),
    'peers': ('repvgg_seg.benchmarks.peers', "our segmentors with mmseg's fast ones"),
    'pretraining': ('repvgg_seg.benchmarks.pretraining', 'finished ImageNet pretrainings, in both forms'),
    'heads': ('repvgg_seg.benchmarks.heads', 'plain and folded heads, in inference and in training'),
    'runtime': ('repvgg_seg.benchmarks.runtime', 'a Segmenter with the bare graph, a stream with a loop, tiled images'),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument('comparison', choices=COMPARISONS, metavar='NAME', help='what is compared')
    parser.add_argument('options', nargs=argparse.REMAINDER, metavar='...', help='`NAME --help` lists them')
    parser.epilog = 'comparisons:\n' + '\n'.join(f'  {name:<14}{what}' for name, (_, what) in COMPARISONS.items())


def main(args: argparse.Namespace) -> None:
    """Run one comparison and print its table."""
    name, what = COMPARISONS[args.comparison]
    module = importlib.import_module(name)  # only the one asked for: their imports take seconds
    parser = Parser(prog=f'repvgg-seg benchmark {args.comparison}', description=f'Compare {what}.')
    module.add_arguments(parser)
    parser.add_argument('--json', metavar='FILE', help='write the figures there')
    if hasattr(module, 'plot'):
        parser.add_argument('--plot', metavar='FILE.png', help='draw them there')
    options = parser.parse_args(args.options)
    result = module.run(options)
    print(module.table(result))
    if options.json:
        write_text(json.dumps(result, indent=2) + '\n', options.json)
    if getattr(options, 'plot', None):
        module.plot(result, options.plot)
