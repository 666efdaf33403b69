"""Time a segmentor in its train-time and its deployed form on the device that is there.

    python tools/benchmark.py latency configs/pspnet_repvgg_a0_demo.py --size 256x512

The two forms are timed in turn in one run, on the inference graph (image to class map) that the conversion verifies.
The weights are random: they don't change the latency.
"""

from __future__ import annotations

import argparse
import sys

from repvgg_seg.cli import command


def size(text: str) -> tuple[int, int]:
    """Read a size such as 512x1024."""
    height, _, width = text.partition('x')
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f'{text!r} is not a size: write HEIGHTxWIDTH, such as 512x1024')
    return int(height), int(width)


@command
def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest='command', required=True)
    latency = commands.add_parser('latency', help='train-time against deployed form')
    latency.add_argument('config', help='config of a segmentor')
    latency.add_argument('--size', type=size, default=(512, 1024), metavar='HxW', help='input size (default: 512x1024)')
    latency.add_argument('--batch', type=int, default=1, help='images at once (default: 1)')
    latency.add_argument('--runs', type=int, default=10, help='counted runs of each form (default: 10)')
    latency.add_argument('--json', metavar='FILE', help='write the result there')
    args = parser.parse_args(argv)
    from repvgg_seg.openmmlab.benchmark import compare_forms, format_comparison
    from repvgg_seg.weights.store import write_text

    result = compare_forms(args.config, size=args.size, batch=args.batch, runs=args.runs)
    print(format_comparison(result))
    if args.json:
        import json

        write_text(json.dumps(result, indent=2) + '\n', args.json)


if __name__ == '__main__':
    sys.exit(main())
