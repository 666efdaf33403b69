"""One process at a time: locks that the system lets go of when their process ends, however it ends."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .files import FileError, beside

try:
    import fcntl
except ImportError:  # Windows: nothing is locked
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)


@contextmanager
def locked(path: Path, cure: str, *, wait: bool = False) -> Iterator[bool]:
    """Hold `path`, a file for this alone, as the only process; yields whether another one was waited for.

    The lock is the process' own: forked ones do not inherit it, and it ends with the process. The file tells which
    one it is, and is removed in the end; one that a killed process left behind locks nothing. So is the folder, if it
    is new and still empty.

    Raises:
        FileError: another process holds it and shall not be waited for, which ends in `cure`, or the folder cannot
            be written.
    """
    within = _WITHIN.setdefault(os.path.abspath(path), threading.Lock())  # the system's lock is one for all threads
    if not within.acquire(blocking=wait):
        raise FileError(f'{path.parent} is in use by this process: {cure}')
    try:
        with _locked(path, cure, wait) as waited:
            yield waited
    finally:
        within.release()


_WITHIN: dict[str, threading.Lock] = {}


@contextmanager
def _locked(path: Path, cure: str, wait: bool) -> Iterator[bool]:
    new = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        waited = False
        while True:
            file = open(path, 'a+')  # noqa: SIM115
            waited |= _lock(file.fileno(), path, cure, wait)
            # The process before may have removed the file that this one was waiting for.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                break
            file.close()
        file.truncate(0)
        file.write(f'process {os.getpid()} on {socket.gethostname()}')
        file.flush()
    except OSError as error:
        raise FileError(
            f'{path.parent} cannot be written ({error.strerror or error}): choose another folder'
        ) from error
    try:
        yield waited
    finally:
        with suppress(OSError):  # the folder may be gone
            path.unlink()
        file.close()
        if new:
            with suppress(OSError):
                path.parent.rmdir()


@contextmanager
def one_at_a_time(path: Path) -> Iterator[None]:
    """Let one process at a time make `path`; others wait. A hidden file beside it is the lock, as long as one does.

    Raises:
        FileError: the folder cannot be written.
    """
    with locked(beside(path, 'lock'), 'wait for it', wait=True):
        yield


def _lock(descriptor: int, path: Path, cure: str, wait: bool) -> bool:
    """Lock an open file; return whether that had to wait."""
    if fcntl is None:
        return False
    try:
        fcntl.lockf(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except (BlockingIOError, PermissionError):
        other = path.read_text() or 'another process'
        if not wait:
            raise FileError(f'{path.parent} is in use by {other}: {cure}') from None
        logger.warning('waiting for %s, which uses %s', other, path.parent)
        fcntl.lockf(descriptor, fcntl.LOCK_EX)
        return True
    except OSError as error:  # some network drives cannot lock
        logger.warning('%s cannot be locked (%s): start nothing else in it', path.parent, error.strerror)
        return False
