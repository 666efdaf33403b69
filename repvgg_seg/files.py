"""Files: found, read, written whole or not at all, and folders that hold what one call made; all in plain Python."""

from __future__ import annotations

import codecs
import errno
import hashlib
import json
import logging
import os
import shutil
import time
import uuid
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO

try:
    import fcntl
except ImportError:  # Windows: processes that start at once may do the same work; the last one's file stays
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

StrPath = str | os.PathLike[str]


# How a text file begins whose encoding is marked. The marks of 32 bits begin with those of 16.
_MARKS = {
    codecs.BOM_UTF8: 'utf-8-sig', codecs.BOM_UTF32_LE: 'utf-32', codecs.BOM_UTF32_BE: 'utf-32',
    codecs.BOM_UTF16_LE: 'utf-16', codecs.BOM_UTF16_BE: 'utf-16',
}  # fmt: skip


class FileError(ValueError):
    """A file that cannot be read, used or written, with its cause and cure in one sentence."""


class UnusableName(FileError):
    """A file that cannot be written for its name or place alone; others in the same folder can."""


# What the system says of such a name: too long, not of its characters, taken by a folder, below a file.
_OF_NAMES = {errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL, errno.EISDIR, errno.ENOTDIR, errno.EEXIST}


def walk(folder: StrPath, suffixes: Collection[str] = ('',)) -> Iterator[Path]:
    """Yield the files below a folder whose names end in one of `suffixes`, upper or lower case, sorted by their paths.

    Links to folders are followed, but not back into a folder that they lie in. Hidden files and folders are left out.
    A link that leads nowhere is yielded, so that who reads it tells what is missing.

    Raises:
        OSError: a folder cannot be read.
    """
    yield from _walk(Path(folder), tuple(suffix.lower() for suffix in suffixes), ())


def _walk(folder: Path, suffixes: tuple[str, ...], above: tuple[str, ...]) -> Iterator[Path]:
    real = os.path.realpath(folder)
    if real in above:
        return
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if name.startswith('.'):
            continue
        if path.is_dir():
            yield from _walk(path, suffixes, (*above, real))
        elif name.lower().endswith(suffixes) and (path.is_file() or path.is_symlink()):
            yield path


def read_text(path: StrPath) -> str:
    """Return a text file in the encoding of its byte order mark, or in UTF-8; lines end in `\\n`.

    Raises:
        FileNotFoundError: it is not there.
        FileError: it cannot be read, or is in another encoding.
    """
    try:
        with open(path, 'rb') as file:
            start = file.read(4)
        encoding = next((name for mark, name in _MARKS.items() if start.startswith(mark)), 'utf-8')
        with open(path, encoding=encoding) as text:
            return text.read()
    except FileNotFoundError:
        raise
    except UnicodeError as error:
        raise FileError(f'{path} is not text in UTF-8 ({error}): save it in UTF-8') from error
    except OSError as error:
        raise FileError(f'{path} cannot be read ({error.strerror or error})') from error


@contextmanager
def atomic_write(path: StrPath) -> Iterator[IO[bytes]]:
    """Open a temporary file that takes the place of `path` once it is whole and on disk.

    Whatever interrupts the writing, kill -9 included, a file that was at `path` before is still there, whole.

    Raises:
        UnusableName: the name is too long, or of a folder.
        FileError: the folder cannot be written, or the disk is full.
    """
    target = Path(os.path.realpath(path))  # a link keeps pointing at the file it points at
    if os.path.exists(target) and not target.is_file():
        raise UnusableName(f'{path} is a folder or a device, not a file: name the file to write')
    temporary = target.with_name(f'.{uuid.uuid4().hex[:16]}.tmp')  # short, so that it fits where the name does
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with open(temporary, 'xb') as file:
            if fcntl is not None:
                with suppress(OSError):  # some network drives cannot lock files
                    fcntl.flock(file, fcntl.LOCK_EX)  # so that `sweep` leaves it alone
            yield file
            file.flush()
            os.fsync(file.fileno())
        replace(temporary, target)
    except OSError as error:
        raise unwritten(path, error) from error
    finally:
        try:
            temporary.unlink(missing_ok=True)
        except OSError:  # the folder itself is unusable, which the first error says
            logger.debug('could not remove %s', temporary)


def unwritten(path: StrPath, error: OSError) -> FileError:
    """Return the error of a file that cannot be written."""
    if error.errno in _OF_NAMES:
        return UnusableName(
            f'{path} cannot be written ({error.strerror}): rename what it is made of, or choose another folder'
        )
    return FileError(
        f'{path} cannot be written ({error.strerror or error}): nothing was changed; '
        'make room, or choose another folder'
    )


def replace(temporary: Path, target: Path) -> None:
    """Rename a whole file to `target` in one step, and make that survive a power cut."""
    os.replace(temporary, target)
    if os.name == 'posix':  # Windows cannot open folders
        descriptor = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def sweep(folder: Path, abandoned_s: float = 60) -> None:
    """Remove the temporary files below a folder that no process writes any more: those of calls that were killed."""
    for path in folder.rglob('.*.tmp') if fcntl is not None else ():
        with suppress(OSError), open(path, 'rb') as file:  # gone meanwhile, or in use
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(file.fileno()).st_mtime > abandoned_s:  # younger ones may not be locked yet
                path.unlink()


def beside(path: Path, purpose: str) -> Path:
    """Return the hidden path beside `path` that serves a purpose for it: always the same, and short."""
    return path.with_name(f'.{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}.{purpose}')


def write_text(text: str, path: StrPath) -> None:
    """Write a text file atomically, in UTF-8.

    Raises:
        FileError: it cannot be written.
    """
    with atomic_write(path) as file:
        file.write(text.encode(errors='surrogateescape'))  # names of files may hold bytes that are not text


def parse_json(text: str | bytes) -> Any:
    """Return what JSON text holds.

    Raises:
        ValueError: it is not JSON, or nested so deep that it is none of ours.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError('it is nested too deep') from None


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


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Give a new folder beside `out` to write to, which takes its place in the end; after an error, nothing is left.

    Raises:
        FileError: it cannot be written.
    """
    parts = out.with_name(f'.{out.name}.{uuid.uuid4().hex[:8]}.tmp')
    try:
        parts.mkdir(parents=True)
        yield parts
        remove(out)
        os.replace(parts, out)
    except OSError as error:
        raise FileError(f'{out} cannot be written ({error.strerror or error}): make room, or name another') from error
    finally:
        shutil.rmtree(parts, ignore_errors=True)


def remove(path: Path) -> None:
    """Remove a file, or a folder in one step: killed in the middle, it leaves no folder that lacks some of its files.

    Raises:
        OSError: it cannot be removed.
    """
    rest = beside(path, 'removed')
    if rest.is_dir():  # of a call that was killed
        shutil.rmtree(rest)
    if path.is_dir() and not path.is_symlink():
        os.replace(path, rest)
        shutil.rmtree(rest)
    else:
        path.unlink(missing_ok=True)


def claim(
    marker: Path,
    settings: Mapping[str, Any],
    written: Callable[[dict[str, Any]], Iterable[Path]],
    *,
    overwrite: bool = False,
    names: Collection[str] | None = None,
) -> None:
    """Reserve the folder of `marker`, a JSON file, for what is made with `settings`; call it before anything is made.

    `written` returns what was made with the settings that it is given. With `overwrite` that is removed before the
    marker is changed, so that, killed at any time, the folder never holds what other settings made. Where there is no
    marker yet, the folder may hold only hidden files or, if `names` are given, only files with other names.

    Raises:
        FileError: the folder holds what other settings, or something else, made, or it cannot be written.
    """
    folder = marker.parent
    settings = json.loads(json.dumps(settings))
    try:
        if folder.exists() and not folder.is_dir():
            raise FileError(f'{folder} is a file: name a folder')
        folder.mkdir(parents=True, exist_ok=True)
        with _alone(folder):
            found = _settings(marker)
            if found is None:
                for name in sorted(os.listdir(folder)):
                    if name in names if names is not None else not name.startswith('.'):
                        raise FileError(
                            f'{folder} holds something that this did not write (such as {name}): '
                            'choose a folder that is empty or new'
                        )
            else:
                made = written(found)
                if found != settings and not overwrite:
                    raise FileError(
                        f'{folder} holds results of other settings ({_differences(found, settings)}): '
                        'choose another folder, or --overwrite them'
                    )
                for path in made if overwrite else ():
                    remove(path)
            if found != settings:
                write_text(json.dumps(settings, indent=2) + '\n', marker)
    except OSError as error:
        raise FileError(f'{folder} cannot be written ({error.strerror or error})') from error


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Let one process at a time do this; the system ends the lock of one that is killed."""
    if fcntl is None:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network drives cannot lock folders
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def exclusive(path: Path) -> Iterator[BinaryIO]:
    """Open a file to append, by one process at a time: others wait, and the system lets go for one that dies."""
    while True:
        with open(path, 'a+b') as file:
            if fcntl is not None:
                with suppress(OSError):  # some network drives cannot lock files
                    fcntl.flock(file, fcntl.LOCK_EX)
            # Who had it before may have renamed or removed the file that we were waiting for.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield file
                return


def _settings(marker: Path) -> dict[str, Any] | None:
    try:
        found = parse_json(read_text(marker))
        if not isinstance(found, dict):
            raise ValueError('it is not an object')
        return found
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise FileError(f'{marker} is damaged ({error}): choose another folder') from error


def _differences(found: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    def short(value: Any) -> str:
        return text if len(text := str(value)) <= 40 else f'{text[:39]}…'

    keys = [key for key in {**wanted, **found} if found.get(key) != wanted.get(key)]
    return ', '.join(f'{key} {short(found.get(key))} instead of {short(wanted.get(key))}' for key in keys)
