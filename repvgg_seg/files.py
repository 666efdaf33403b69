"""Files that are written whole or not at all; needs nothing but Python, so that an application can use it too."""

from __future__ import annotations

import hashlib
import logging
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

logger = logging.getLogger(__name__)

StrPath = str | os.PathLike[str]


class FileError(ValueError):
    """A file that cannot be read, used or written, with its cause and cure in one sentence."""


@contextmanager
def atomic_write(path: StrPath) -> Iterator[IO[bytes]]:
    """Open a temporary file that takes the place of `path` once it is whole and on disk.

    Whatever interrupts the writing, kill -9 included, a file that was at `path` before is still there, whole.

    Raises:
        FileError: the folder cannot be written, or the disk is full.
    """
    target = Path(os.path.realpath(path))  # a link keeps pointing at the file it points at
    if target.exists() and not target.is_file():
        raise FileError(f'{path} is a folder or a device, not a file: name the file to write')
    temporary = target.with_name(f'.{target.name}.{uuid.uuid4().hex[:8]}.tmp')
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, 'xb') as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        replace(temporary, target)
    except OSError as error:
        raise FileError(
            f'{path} cannot be written ({error.strerror or error}): nothing was changed; '
            'make room, or choose another folder'
        ) from error
    finally:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:  # the folder itself is unusable, which has been said already
            logger.debug('could not remove %s', temporary)


def replace(temporary: Path, target: Path) -> None:
    """Rename a whole file to `target` in one step, and make that survive a power cut."""
    os.replace(temporary, target)
    if os.name == 'posix':  # Windows cannot open folders
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def write_text(text: str, path: StrPath) -> None:
    """Write a text file atomically, in UTF-8.

    Raises:
        FileError: it cannot be written.
    """
    with atomic_write(path) as file:
        file.write(text.encode())


def sha256(path: StrPath) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits.

    Raises:
        FileError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, 'rb') as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as error:
        raise FileError(f'{path} cannot be read ({error.strerror or error})') from error
    return digest.hexdigest()
