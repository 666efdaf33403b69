"""A GPU in under ten minutes: what is right there, then the tables of RepVGG's authors and the peers.

    repvgg-seg benchmark gpu --json gpu.json

First the conversion of each variant, training steps in each precision, training in processes, and exported files are
checked. Then classifiers are timed in both forms at 224 and 320 pixels, the PSPNets of the paper's table 8 at 713x713,
and our segmentors beside their peers. Float32 is float32 here, not TF32. What there is no time for is said.
"""

from __future__ import annotations

import argparse
import functools
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from ..models.variants import VARIANTS
from . import classifiers, gpu_checks, peers
from .gpu_checks import without_tf32
from .report import Row

Size = tuple[int, int]
DEMO = 'pspnet_repvgg_a0_demo'


@dataclass(frozen=True)
class Plan:
    """What is checked and timed."""

    archs: tuple[str, ...]
    check_size: Size
    classifiers: tuple[str, ...]
    classifier_sizes: tuple[Size, ...]
    batch: int
    table_8: tuple[str, ...]
    table_8_peers: tuple[str, ...]
    table_8_size: Size
    ours: tuple[str, ...]
    peers: tuple[str, ...]
    peer_sizes: tuple[Size, ...]
    runs: int


FULL = Plan(
    archs=tuple(VARIANTS),
    check_size=(64, 96),
    classifiers=('RepVGG-A0', 'RepVGG-A1', 'RepVGG-A2', 'RepVGG-B0', 'RepVGG-B1', 'RepVGG-B1g2', 'RepVGG-B1g4',
                 'RepVGG-B2', 'RepVGG-B2g4', 'RepVGG-B3', 'RepVGG-B3g4', 'RepVGG-D2se', 'RepVGGplus-L2pse', 'resnet50',
                 'resnet101', 'swin_b'),
    classifier_sizes=((224, 224), (320, 320)),
    batch=128,
    table_8=('pspnet_repvgg_b1g2_fast_paper_cityscapes', 'pspnet_repvgg_b2_fast_paper_cityscapes',
             'pspnet_repvgg_b1g2_paper_cityscapes', 'pspnet_repvgg_b2_paper_cityscapes'),
    table_8_peers=('PSPNet R50 d8', 'PSPNet R101 d8'),
    table_8_size=(713, 713),
    ours=('pspnet_repvgg_a0_cityscapes', 'upernet_repvgg_a0_cityscapes', DEMO),
    peers=tuple(name for name in peers.PEERS if not name.startswith('PSPNet')),
    peer_sizes=((512, 1024), (1024, 2048)),
    runs=3,
)  # fmt: skip
SMALL = Plan(
    archs=('RepVGG-A0',),
    check_size=(64, 96),
    classifiers=('RepVGG-A0', 'resnet50'),
    classifier_sizes=((32, 32),),
    batch=2,
    table_8=('pspnet_repvgg_b1g2_fast_paper_cityscapes',),
    table_8_peers=('PSPNet R50 d8',),
    table_8_size=(33, 33),
    ours=(DEMO,),
    peers=('Fast-SCNN',),
    peer_sizes=((64, 128),),
    runs=1,
)


def parts(plan: Plan, folder: Path) -> dict[str, Callable[[], list[Row]]]:
    """Return what is measured, by name, in this order."""
    runtimes = ['torch fp32', 'torch fp16'] if torch.cuda.is_available() else ['torch fp32']
    options = functools.partial(argparse.Namespace, runtimes=runtimes, runs=plan.runs)
    made: dict[str, Callable[[], list[Row]]] = {
        'conversion': lambda: gpu_checks.conversion(plan.archs, plan.check_size),
        'training': lambda: gpu_checks.training(DEMO, plan.check_size),
        'processes': lambda: gpu_checks.processes(DEMO, folder),
        'files': lambda: gpu_checks.exported(DEMO, plan.check_size, folder),
    }
    for size in plan.classifier_sizes:
        args = options(networks=list(plan.classifiers), size=size, batch=plan.batch)
        made[f'classifiers {_text(size)}'] = functools.partial(classifiers.run, args)
    comparisons = [('table 8', plan.table_8, plan.table_8_peers, plan.table_8_size)]
    comparisons += [('peers', plan.ours, plan.peers, size) for size in plan.peer_sizes]
    for name, ours, others, size in comparisons:
        args = options(configs=list(ours), peers=list(others), size=size, batch=1)
        made[f'{name} {_text(size)}'] = functools.partial(peers.run, args)
    for arch in plan.archs:  # each takes a while to compile
        made[f'compiled {arch}'] = functools.partial(
            gpu_checks.conversion, [arch], plan.check_size, gpu_checks.COMPILED
        )
    return made


def _text(size: Size) -> str:
    return 'x'.join(map(str, size))


NAMES = ('conversion', 'training', 'processes', 'files', 'classifiers', 'table 8', 'peers', 'compiled')


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    names = ', '.join(NAMES)
    parser.add_argument('--parts', nargs='+', choices=NAMES, default=NAMES, metavar='NAME', help=f'some of: {names}')
    parser.add_argument('--small', action='store_true', help='a few small networks, which run on a CPU, too')
    parser.add_argument(
        '--minutes', type=float, default=8, help='no part begins after this many minutes (default: %(default)g)'
    )


def run(args: argparse.Namespace) -> list[Row]:
    """Check and measure; what failed, and what there was no time for, is a row without a value and with a note.

    Raises:
        ValueError: there is no GPU, and it is not a small run.
    """
    if not (torch.cuda.is_available() or args.small):
        raise ValueError('there is no CUDA device here: --small runs a few small networks on the CPU')
    end = time.monotonic() + 60 * args.minutes
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(prefix='benchmark-') as folder:
        for name, measure in parts(SMALL if args.small else FULL, Path(folder)).items():
            if not name.startswith(tuple(args.parts)):
                continue
            if time.monotonic() > end:
                note = f'there was no time for it within {args.minutes:g} minutes'
                rows.append(Row(name, '', '', 'part', None, '', {'note': note}))
                continue
            try:
                with without_tf32():
                    rows += measure()
            except Exception as error:  # the other parts still run
                note = f'FAILED: {" ".join(str(error).split()) or type(error).__name__}'[:300]
                rows.append(Row(name, '', '', 'part', None, '', {'note': note}))
            if torch.cuda.is_available():
                torch.cuda.empty_cache()
    return rows
