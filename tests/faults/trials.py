"""Work in processes of its own: killed at a chosen operation or moment, short of disk, or two at once."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable
from ctypes import c_int
from pathlib import Path
from typing import Any

CONTEXT = multiprocessing.get_context('forkserver')  # whose server has imported the work, and started nothing
CONTEXT.set_forkserver_preload(['tests.faults.work'])
# What changes a folder, as Python's audit events call it; opening counts where it is to write.
CHANGES = {'os.rename', 'os.remove', 'os.mkdir', 'os.rmdir', 'os.truncate', 'fcntl.flock', 'shutil.rmtree'}

Work = Callable[..., Any]


def _count(changes: Any, kill_at: int | None) -> None:
    """Count what changes a folder, and end the process as `kill -9` does before the `kill_at`-th time."""

    def hook(event: str, args: tuple[Any, ...]) -> None:
        opened = event == 'open' and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if opened or event in CHANGES:
            changes.value += 1
            if changes.value == kill_at:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _run(work: Work, args: tuple[Any, ...], output: Any, changes: Any, kill_at: int | None, room: int | None) -> None:
    for stream in (1, 2):
        os.dup2(output.fileno(), stream)
    sys.stdout, sys.stderr = (open(stream, 'w', buffering=1) for stream in (1, 2))  # noqa: SIM115
    if room is not None:
        import resource

        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # then writing more fails as on a disk that is full
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, room))
    _count(changes, kill_at)
    sys.exit(work(*args))


class Trial:
    """One run of `work(*args)`, started.

    `kill_at`: which change of a folder it does not survive. `room`: the bytes that a file of it can have at most.
    """

    def __init__(self, work: Work, *args: Any, kill_at: int | None = None, room: int | None = None) -> None:
        self._changes = CONTEXT.Value(c_int, 0)
        self._output, output = CONTEXT.Pipe(duplex=False)
        self._process = CONTEXT.Process(target=_run, args=(work, args, output, self._changes, kill_at, room))
        self._begin = time.monotonic()
        self._process.start()
        output.close()

    def end(self, after_s: float | None = None) -> int:
        """Wait, or kill it after some time; return its exit status, negative that of a signal."""
        if after_s is not None:
            self._process.join(after_s)
            self._process.kill()
        self._process.join(300)
        assert self._process.exitcode is not None, 'it hangs'
        self.seconds, self.changes = time.monotonic() - self._begin, self._changes.value
        with open(os.dup(self._output.fileno()), errors='replace') as output:
            self.said = output.read()
        return self._process.exitcode


def files(folder: Path) -> dict[str, bytes]:
    """Return the files below a folder that are not hidden: path -> content."""
    found = (path for path in sorted(folder.rglob('*')) if path.is_file())
    names = {path.relative_to(folder): path for path in found}
    return {str(name): path.read_bytes() for name, path in names.items() if not any(p[0] == '.' for p in name.parts)}
