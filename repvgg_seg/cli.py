"""What the command lines share: errors as one sentence."""

from __future__ import annotations

import argparse
import functools
import os
import sys
from collections.abc import Callable

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


def command(main: Callable[[list[str] | None], None]) -> Callable[..., int]:
    """Turn `main(argv)` into a command that returns an exit status and tells an error in one sentence.

    The status is 0, 2 with an error told on stderr, or 130 after Ctrl-C. REPVGG_SEG_TRACEBACK=1 shows the traceback.
    """

    @functools.wraps(main)
    def run(argv: list[str] | None = None) -> int:
        try:
            if problems := check_distributions():
                raise ImportError(' '.join(f'{problem.cause}: {problem.cure}' for problem in problems))
            main(argv)
        except KeyboardInterrupt:
            sys.stderr.write('\ninterrupted\n')
            return 130
        except Exception as error:
            if os.environ.get(TRACEBACK_VARIABLE):
                raise
            message = str(error.args[0]) if isinstance(error, KeyError) and error.args else str(error)
            if 'Original Traceback' in message:  # of a data loader's worker: its last line is the error
                message = message.strip().splitlines()[-1]
            sentence = ' '.join(message.split()) or type(error).__name__
            # Ours and the system's say what is wrong; other libraries' may need the place as well.
            hint = '' if isinstance(error, (ValueError, OSError)) else f' ({TRACEBACK_VARIABLE}=1 shows where)'
            sys.stderr.write(f'error: {sentence}{hint}\n')
            return 2
        return 0

    return run
