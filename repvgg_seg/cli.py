"""The command `repvgg-seg`: a table of commands, the options that they share, and errors as one sentence.

A command is a module with `add_arguments(parser)` and `main(args)`, which returns an exit status or None for 0; its
docstring is its help. The module is imported when it is called, so that listing the commands takes no time.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import io
import os
import sys
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn

from .doctor import RUNTIME, check_distributions
from .environment import is_runtime_only
from .interruption import Interrupted, resuming_command
from .terminal import escaped_reports, say

TRACEBACK_VARIABLE = 'REPVGG_SEG_TRACEBACK'


@dataclass(frozen=True)
class Command:
    """Where a command is, what it does in a line, and the distributions that it needs (None: all of ours)."""

    module: str
    summary: str
    needs: Collection[str] | None = None


GROUPS: Mapping[str, Mapping[str, Command]] = {
    'data': {
        'demo-data': Command('apps.demo_data', "draw a small data set of streets in Cityscapes' layout", RUNTIME),
        'import-labels': Command('apps.import_labels', 'make masks of labels of COCO, labelme, CVAT or YOLO', RUNTIME),
        'check-dataset': Command('apps.check_dataset', 'look at every image and mask, and say what is wrong'),
        'browse-dataset': Command('apps.browse_dataset', 'draw what the network sees of a data set'),
        'convert-masks': Command('apps.convert_masks', 'turn masks of colours into masks of class indices', RUNTIME),
        'make-train-ids': Command('apps.make_train_ids', "make Cityscapes' training masks from its labels", RUNTIME),
        'cache-dataset': Command('apps.cache_dataset', 'decode the images of a training once'),
    },
    'training': {
        'configs': Command('apps.configs', 'list the shipped configs, or write one that stands alone'),
        'train': Command('apps.train', 'train a segmentor'),
        'test': Command('apps.test', 'evaluate a segmentor'),
        'report': Command('apps.report', 'write one HTML page about a training and the files made from it'),
        'pretrain-imagenet': Command('apps.pretrain_imagenet', 'train or evaluate an ImageNet classifier'),
        'download-weights': Command('apps.download_weights', 'download released ImageNet weights'),
        'convert-weights': Command('apps.convert_weights', "rename weights for the authors' code, OpenMMLab or timm"),
    },
    'deployment': {
        'convert-deploy': Command('apps.convert_deploy', 'convert to plain 3x3 convolutions and prove it equal'),
        'quantize': Command('apps.quantize', 'put batch norms behind fused kernels, to be trained for int8'),
        'export': Command('apps.export', 'write one file that runs without this package, and prove it equal'),
        'publish': Command('apps.publish', 'write a folder to hand on: file, weights, classes and model card'),
        'predict': Command('apps.predict', 'segment images, videos and cameras with an exported file', RUNTIME),
        'serve': Command('apps.serve', 'show a page to try an exported file on, in the browser', RUNTIME),
    },
    'machine': {
        'benchmark': Command('benchmarks.driver', 'measure speed and memory, by name of the comparison'),
        'doctor': Command('doctor', 'say what is installed, and what is wrong with it', ()),
    },
}
COMMANDS = {name: command for group in GROUPS.values() for name, command in group.items()}


# ---- what commands share


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Declare --workers."""
    parser.add_argument('--workers', type=int, metavar='N', help='how many work at once (default: one per processor)')


def add_runner_options(parser: argparse.ArgumentParser, *, work_dir: str) -> None:
    """Declare what commands have in common that run mmengine's runner; `work_dir` is the default of --work-dir."""
    parser.add_argument('--work-dir', metavar='DIR', help=f'where logs and checkpoints go (default: {work_dir})')
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how processes were started (default: none)',
    )
    parser.add_argument('--local-rank', '--local_rank', type=int, help=argparse.SUPPRESS)  # of torch.distributed.launch


def add_training_options(parser: argparse.ArgumentParser) -> None:
    """Declare --resume, --overwrite and --amp."""
    start = parser.add_mutually_exclusive_group()
    start.add_argument(
        '--overwrite', action='store_true', help='remove the checkpoints of another training from the work directory'
    )
    start.add_argument(
        '--resume',
        nargs='?',
        const='latest',
        metavar='CHECKPOINT',
        help='go on from a checkpoint, by default from the latest of the work directory',
    )
    add_amp(parser)


def add_amp(parser: argparse.ArgumentParser) -> None:
    """Declare --amp."""
    parser.add_argument('--amp', action='store_true', help='mixed precision: bfloat16, or float16 on GPUs without it')


def add_trust(parser: argparse.ArgumentParser) -> None:
    """Declare --trust."""
    parser.add_argument(
        '--trust', action='store_true', help='open a .pt2 file, which can run code of its author; others need no trust'
    )


def image_size(text: str) -> tuple[int, int]:
    """Read a size such as 512x1024, height first.

    Raises:
        ArgumentTypeError: it is not a size.
    """
    height, _, width = text.partition('x')
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f'{text!r} is not a size: write HEIGHTxWIDTH, such as 512x1024')
    return int(height), int(width)


# ---- running one


def overview() -> str:
    """Return the help of `repvgg-seg` itself."""
    lines = ['usage: repvgg-seg COMMAND ...', '', 'Semantic segmentation with re-parameterized networks.']
    for group, commands in GROUPS.items():
        lines += ['', f'{group}:', *(f'  {name:<20}{command.summary}' for name, command in commands.items())]
    return '\n'.join([*lines, '', '`repvgg-seg COMMAND --help` lists the options of a command.'])


class Parser(argparse.ArgumentParser):
    """A parser that raises its errors, so that they are printed like all others."""

    def error(self, message: str) -> NoReturn:
        """Raise the error in the arguments.

        Raises:
            ValueError: always.
        """
        raise ValueError(f'{message} (`{self.prog} --help` lists the options)')


def build_parser(name: str) -> Parser:
    """Return the parser of a command; imports its module."""
    module = importlib.import_module(f'{__package__}.{COMMANDS[name].module}')
    parser = Parser(
        prog=f'repvgg-seg {name}', description=module.__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.add_arguments(parser)
    parser.set_defaults(main=module.main)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status: 2 after an error, which is one sentence on stderr; 130 after Ctrl-C.

    A training that a signal ended, after saving it, returns 128 + the signal.

    REPVGG_SEG_TRACEBACK=1 shows the traceback.
    """
    for stream in (sys.stdout, sys.stderr):  # what a terminal cannot show is written as \\x…, not an error
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors='backslashreplace')
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ('-h', '--help', 'help'):
        say(*overview().splitlines(), error=not words)
        return 0 if words else 2
    with escaped_reports():
        return _run(words)


def _run(words: list[str]) -> int:
    name, *rest = words
    if name == '--version':
        from . import __version__

        say(f'repvgg-seg {__version__}')
        return 0
    if name not in COMMANDS:
        near = difflib.get_close_matches(name.replace('_', '-'), COMMANDS, 1)
        hint = f'did you mean {near[0]}?' if near else '`repvgg-seg --help` lists them all'
        say(f'error: there is no command {name!r}: {hint}', error=True)
        return 2
    try:
        _check_installation(name)
        args = vars(build_parser(name).parse_args(rest))
        return args.pop('main')(argparse.Namespace(**args)) or 0
    except Interrupted as stop:
        if os.environ.get('RANK', '0') == '0':
            sys.stderr.write(f'{stop}; go on with\n{resuming_command(name, rest)}\n')
        return 128 + stop.signum
    except KeyboardInterrupt:
        sys.stderr.write('\ninterrupted\n')
        return 130
    except Exception as error:
        if os.environ.get(TRACEBACK_VARIABLE):
            raise
        say(f'error: {_sentence(error)}', error=True)
        return 2


def _check_installation(name: str) -> None:
    needs = COMMANDS[name].needs
    if needs is None and is_runtime_only():
        raise ValueError(
            f'{name} needs torch and OpenMMLab, and this installation only runs exported files: '
            '`make setup` in a checkout, or `pip install` of a checkout or wheel without --no-deps, brings the rest'
        )
    if problems := check_distributions(needs):
        raise ValueError(' '.join(f'{problem.cause}: {problem.cure}' for problem in problems))


def _sentence(error: Exception) -> str:
    message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
    if 'Original Traceback' in message:  # of a data loader's worker: its last line is the error
        message = message.strip().splitlines()[-1].removeprefix('ValueError: ')
    sentence = ' '.join(message.split()) or type(error).__name__
    # Ours and the system's say what is wrong; other libraries' may need the place as well.
    return sentence if isinstance(error, (ValueError, OSError)) else f'{sentence} ({TRACEBACK_VARIABLE}=1 shows where)'
