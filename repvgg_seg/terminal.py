"""What a terminal shows: text from outside, such as the name of a file, is text there and never a command."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


def printable(text: object) -> str:
    r"""Return text as one line; what is no visible character stands there as its escape, such as \x1b or \n."""
    return ''.join(sign if sign.isprintable() else sign.encode('unicode_escape').decode('ascii') for sign in str(text))


def is_text(text: str) -> bool:
    """Whether text can be written in UTF-8; names of files may hold bytes, and JSON escapes, that cannot."""
    return not any('\ud800' <= sign <= '\udfff' for sign in text)


def label(text: object) -> str:
    """Return text as rich shows it unchanged, for the description of a progress bar."""
    from rich.markup import escape

    return escape(printable(text))


def say(*lines: object, error: bool = False) -> None:
    """Print lines to stdout, or to stderr, each made `printable`. All that this package prints goes through here."""
    for line in lines:
        print(printable(line), file=sys.stderr if error else sys.stdout, flush=True)


@contextmanager
def escaped_reports() -> Iterator[None]:
    """Escape what warnings say, and the texts, paths and errors that are put into the lines of logs."""
    make, write = logging.getLogRecordFactory(), warnings.formatwarning

    def record(*args: Any, **options: Any) -> logging.LogRecord:
        made = make(*args, **options)
        if isinstance(made.args, tuple):
            outside = (str, os.PathLike, Exception)
            made.args = tuple(printable(value) if isinstance(value, outside) else value for value in made.args)
        return made

    def warning(message: Warning | str, *args: Any, **options: Any) -> str:
        return write(printable(message), *args, **options)

    logging.setLogRecordFactory(record)
    warnings.formatwarning = warning
    try:
        yield
    finally:
        logging.setLogRecordFactory(make)
        warnings.formatwarning = write
