"""Downloading a file: resumed after interruptions, verified, and moved into place as a whole."""

from __future__ import annotations

import http.client
import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from ..files import replace
from .checkpoint_io import WeightsError

try:
    import fcntl
except ImportError:  # Windows: processes that start at once may all download; the last one's file stays
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

ATTEMPTS = 5
PAUSE_S = 1.0
TIMEOUT_S = 30.0


class _Dropped(Exception):
    """The connection ended early; what has arrived is kept."""


def download(url: str, target: Path, verify: Callable[[Path], object], size: int | None = None) -> None:
    """Download `url` to `target`, unless another process does so meanwhile.

    What arrives goes to `target`.part, which a later call continues. `verify` raises WeightsError where it
    finds that the part is not what it should be; then the part is dropped. No more than `size` bytes are read.

    Raises:
        WeightsError: the server cannot be reached or sends something else; the folder cannot be written.
    """
    part = target.with_name(f'{target.name}.part')
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _exclusive(part) as file:
            if target.exists():  # another process was faster
                part.unlink()
                return
            continued = file.seek(0, os.SEEK_END) > 0
            try:
                _fetch(url, file, size)
                try:
                    verify(part)
                except WeightsError:
                    file.truncate(0)
                    if not continued:
                        raise
                    logger.warning('%s does not fit what was there of it already: starting afresh', target.name)
                    _fetch(url, file, size)
                    verify(part)
            except WeightsError:
                if file.seek(0, os.SEEK_END) == 0:
                    part.unlink()
                raise
            replace(part, target)
    except urllib.error.HTTPError as error:
        raise WeightsError(f'{url} cannot be downloaded: the server says {error.code} {error.reason}') from error
    except (urllib.error.URLError, _Dropped) as error:
        raise WeightsError(f'{url} cannot be downloaded ({getattr(error, "reason", error)})') from error
    except OSError as error:
        raise WeightsError(f'{target} cannot be written ({error.strerror or error})') from error


@contextmanager
def _exclusive(path: Path) -> Iterator[BinaryIO]:
    """Open a file to append, locked against other processes; the lock ends with the process."""
    while True:
        with open(path, 'a+b') as file:
            if fcntl is not None:
                fcntl.flock(file, fcntl.LOCK_EX)
            # The process that had the lock may have renamed or removed the file meanwhile.
            if path.exists() and os.path.samestat(os.fstat(file.fileno()), path.stat()):
                yield file
                return


def _fetch(url: str, file: BinaryIO, size: int | None) -> None:
    """Append to `file` what it lacks of `url`; connections that end early are opened again."""
    for attempt in range(ATTEMPTS):
        try:
            _request(url, file, size)
            file.flush()
            os.fsync(file.fileno())
            return
        except (_Dropped, urllib.error.URLError) as error:
            refused = isinstance(error, urllib.error.HTTPError)
            offline = isinstance(error, urllib.error.URLError) and attempt == 0  # no connection was there to drop
            if refused or offline or attempt == ATTEMPTS - 1:
                raise
            logger.warning('%s: %s; trying again', url, error)
            time.sleep(PAUSE_S * 2**attempt)


def _request(url: str, file: BinaryIO, size: int | None) -> None:
    offset = file.seek(0, os.SEEK_END)
    try:
        request = urllib.request.Request(url, headers={'Range': f'bytes={offset}-'} if offset else {})
        response = urllib.request.urlopen(request, timeout=TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get('Content-Range') == f'bytes */{offset}':
            return  # it is whole already
        if error.code == 416:
            file.truncate(0)
        if error.code == 416 or error.code >= 500:
            raise _Dropped(f'the server says {error.code} {error.reason}') from error
        raise
    except urllib.error.URLError:
        raise
    except (ValueError, http.client.InvalidURL) as error:
        raise WeightsError(f'{url} is not an address ({error}): check it') from error
    except (OSError, http.client.HTTPException) as error:
        raise _Dropped(f'the connection ended ({type(error).__name__})') from error
    with response:
        if response.headers.get_content_type() == 'text/html':  # such as that of a captive portal: the part stays
            raise WeightsError(f'{url} is a web page, not a weight file: check the address')
        sent = re.match(r'bytes (\d+)-', response.headers.get('Content-Range') or '')
        if response.status != 206 or not sent or int(sent[1]) != offset:
            offset = 0
            file.truncate(0)
        if response.status == 206 and offset == 0:
            raise _Dropped('the server sent another part than it was asked for')
        length = response.headers.get('Content-Length')
        if length and not length.isdecimal():
            raise WeightsError(f'{url} is {length!r} bytes long by its server: try another network or mirror')
        _copy(response, file, offset, offset + int(length) if length else None, size, url.rpartition('/')[2])


def _copy(
    response: http.client.HTTPResponse, file: BinaryIO, offset: int, total: int | None, size: int | None, name: str
) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        '{task.description}',
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(name, total=total, completed=offset)
        while True:
            try:
                chunk = response.read(1 << 18)
            except (OSError, http.client.HTTPException) as error:
                raise _Dropped(f'the connection ended ({type(error).__name__})') from error
            if not chunk:
                break
            file.write(chunk)
            offset += len(chunk)
            if size is not None and offset > size:
                file.truncate(0)
                raise WeightsError(f'{name} is longer than the {size} bytes that were published: check the address')
            progress.update(task, completed=offset)
    if total is not None and offset < total:
        raise _Dropped(f'the connection ended after {offset} of {total} bytes')
