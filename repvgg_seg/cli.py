"""What the command lines share: how values are read, errors as one sentence."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable, Collection

from .doctor import check_distributions

TRACEBACK_VARIABLE = 'REPVGG_SEG_TRACEBACK'


def option(text: str) -> str:
    """Read one KEY=VALUE of --cfg-options.

    Raises:
        ArgumentTypeError: there is no `=` in it.
    """
    if '=' not in text:
        raise argparse.ArgumentTypeError(f'{text!r} is not of the form KEY=VALUE')
    return text


def add_cfg_options(parser: argparse.ArgumentParser, action: type[argparse.Action]) -> None:
    """Declare --cfg-options; `action` is mmengine's DictAction, which only floor 3 and the tools import."""
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        type=option,
        action=action,
        metavar='KEY=VALUE',
        help='change config values, e.g. data_root=DIR train_cfg.max_iters=100',
    )


def image_size(text: str) -> tuple[int, int]:
    """Read a size such as 512x1024, height first.

    Raises:
        ArgumentTypeError: it is none.
    """
    height, _, width = text.partition('x')
    if not (height.isdecimal() and width.isdecimal()):
        raise argparse.ArgumentTypeError(f'{text!r} is not a size: write HEIGHTxWIDTH, such as 512x1024')
    return int(height), int(width)


def add_runner_options(
    parser: argparse.ArgumentParser, dict_action: type[argparse.Action], *, training: bool, work_dir: str
) -> None:
    """Declare what the tools have in common that run mmengine's runner, whose DictAction is `dict_action`.

    `work_dir` is what they do without --work-dir, and `training` adds what only training takes.
    """
    parser.add_argument('--work-dir', help=f'where logs and checkpoints go (default: {work_dir})')
    if training:
        parser.add_argument(
            '--resume',
            nargs='?',
            const='latest',
            metavar='CHECKPOINT',
            help='go on from a checkpoint, by default from the latest of the work directory',
        )
        parser.add_argument(
            '--amp', action='store_true', help='mixed precision: bfloat16, or float16 on GPUs without it'
        )
    parser.add_argument(
        '--launcher',
        choices=['none', 'pytorch', 'slurm', 'mpi'],
        default='none',
        help='how processes were started',
    )
    add_cfg_options(parser, dict_action)
    parser.add_argument('--local-rank', '--local_rank', type=int, help=argparse.SUPPRESS)  # of torch.distributed.launch


def command(
    main: Callable[[list[str] | None], int | None], *, needs: Collection[str] | None = None
) -> Callable[..., int]:
    """Turn `main(argv)` into a command that returns an exit status and tells an error in one sentence.

    The status is what `main` returns or 0, 2 with an error told on stderr, or 130 after Ctrl-C. REPVGG_SEG_TRACEBACK=1
    shows the traceback. `needs` are the distributions that it cannot do without; None: all of those we require.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        try:
            if problems := check_distributions(needs):
                raise ImportError(' '.join(f'{problem.cause}: {problem.cure}' for problem in problems))
            return main(argv) or 0
        except KeyboardInterrupt:
            sys.stderr.write('\ninterrupted\n')
            return 130
        except Exception as error:
            if os.environ.get(TRACEBACK_VARIABLE):
                raise
            message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
            if 'Original Traceback' in message:  # of a data loader's worker: its last line is the error
                message = message.strip().splitlines()[-1].removeprefix('ValueError: ')
            sentence = ' '.join(message.split()) or type(error).__name__
            # Ours and the system's say what is wrong; other libraries' may need the place as well.
            hint = '' if isinstance(error, (ValueError, OSError)) else f' ({TRACEBACK_VARIABLE}=1 shows where)'
            sys.stderr.write(f'error: {sentence}{hint}\n')
            return 2

    return run
