"""Measure speed and memory on this machine; what is compared is timed in turn, in one run.

    repvgg-seg benchmark latency pspnet_repvgg_a0_demo --size 256x512 --json latency.json

`repvgg-seg benchmark NAME --help` lists the options of a comparison. --json writes the figures with the machine, the
versions and the date.
"""

from __future__ import annotations

import argparse
import ast
import importlib
import platform
import shlex
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..cli import Parser
from ..environment import cpu, installed_distributions, versions
from ..terminal import say
from .report import Report, plot, table

# Beside those of environment.versions(): what decides how fast something is.
PACKAGES = ('torchvision', 'onnxruntime', 'openvino', 'numpy', 'opencv-python-headless', 'pillow', 'albumentations')


def comparisons() -> dict[str, str]:
    """Return the name and the description of each comparison: a module here with a function `run`.

    They are read and not imported, which would take seconds.
    """
    found = {}
    for path in sorted(Path(__file__).parent.glob('*.py')):
        module = ast.parse(path.read_text(encoding='utf-8'))
        if any(isinstance(node, ast.FunctionDef) and node.name == 'run' for node in module.body):
            found[path.stem.replace('_', '-')] = (ast.get_docstring(module) or '').partition('\n')[0]
    return found


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    found = comparisons()
    parser.add_argument('comparison', choices=found, metavar='NAME', help='what is compared')
    parser.add_argument('options', nargs=argparse.REMAINDER, metavar='...', help='`NAME --help` lists them')
    parser.epilog = 'comparisons:\n' + '\n'.join(f'  {name:<14} {what}' for name, what in found.items())


def main(args: argparse.Namespace) -> None:
    """Run one comparison; print, write and draw its rows."""
    name = args.comparison
    module = importlib.import_module(f'.{name.replace("-", "_")}', __package__)
    parser = Parser(prog=f'repvgg-seg benchmark {name}', description=module.__doc__)
    module.add_arguments(parser)
    parser.add_argument('--json', metavar='FILE', help='write the figures to this file')
    parser.add_argument('--plot', metavar='FILE.png', help='draw the figures to this file')
    options = parser.parse_args(args.options)
    rows = module.run(options)
    report = Report(name, f'repvgg-seg benchmark {shlex.join([name, *args.options])}', **describe(), rows=rows)
    say(*table(rows).splitlines())
    facts = dict.fromkeys(f'{key} {row.extra[key]}' for row in rows for key in ('size', 'batch') if key in row.extra)
    say(', '.join((*facts, report.machine['device'], f'{report.machine["threads"]} threads', report.date)))
    if options.json:
        report.write(options.json)
    if options.plot:
        draw = getattr(module, 'plot', plot)  # most are drawn as bars
        draw(rows, options.plot, f'benchmark {name}, {report.machine["device"]}, {report.date}')


def describe() -> dict[str, Any]:
    """Return the facts of the machine, the versions that decide the figures, and the date."""
    import torch

    installed = installed_distributions()
    model, instructions = cpu()
    return {
        'machine': {
            'device': torch.cuda.get_device_name() if torch.cuda.is_available() else model,
            'threads': torch.get_num_threads(),
            'instructions': instructions,
        },
        'versions': {
            'python': platform.python_version(),
            **versions(),
            **{name: installed[name].version for name in PACKAGES if name in installed},
        },
        'date': datetime.now(timezone.utc).date().isoformat(),
    }
