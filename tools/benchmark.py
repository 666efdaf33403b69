"""Measure on the device that is there; what is compared is timed in turn, in one run.

    python tools/benchmark.py latency configs/pspnet_repvgg_a0_demo.py --size 256x512 --json latency.json

`python tools/benchmark.py NAME --help` lists the options of a comparison. --json writes the figures with the hardware,
the versions and the date.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys

from repvgg_seg.cli import command

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
    'roofline': ('repvgg_seg.benchmarks.roofline', 'graphs with the peak of the machine'),
    'peers': ('repvgg_seg.benchmarks.peers', "our segmentors with mmseg's fast ones"),
    'pretraining': ('repvgg_seg.benchmarks.pretraining', 'finished ImageNet pretrainings, in both forms'),
    'class-map': ('repvgg_seg.benchmarks.class_map', 'class maps from enlarged logits and without enlarging them'),
    'heads': ('repvgg_seg.benchmarks.heads', 'plain and folded heads, in inference and in training'),
    'runtime': ('repvgg_seg.benchmarks.runtime', 'a Segmenter with the bare graph, a stream with a loop, tiled images'),
}


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter, add_help=False
    )
    parser.add_argument('comparison', choices=COMPARISONS, metavar='NAME')
    parser.epilog = 'comparisons:\n' + '\n'.join(f'  {name:<12} {what}' for name, (_, what) in COMPARISONS.items())
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ('-h', '--help'):
        parser.print_help()
        raise SystemExit(0 if words else 2)
    name = parser.parse_args(words[:1]).comparison
    module = importlib.import_module(COMPARISONS[name][0])  # only the one asked for: their imports take seconds
    options = argparse.ArgumentParser(prog=f'{parser.prog} {name}', description=f'Compare {COMPARISONS[name][1]}.')
    module.add_arguments(options)
    options.add_argument('--json', metavar='FILE', help='write the figures there')
    if hasattr(module, 'plot'):
        options.add_argument('--plot', metavar='FILE.png', help='draw them there')
    args = options.parse_args(words[1:])
    result = module.run(args)
    print(module.table(result))
    if args.json:
        from repvgg_seg.files import write_text

        write_text(json.dumps(result, indent=2) + '\n', args.json)
    if getattr(args, 'plot', None):
        module.plot(result, args.plot)


if __name__ == '__main__':
    sys.exit(main())
