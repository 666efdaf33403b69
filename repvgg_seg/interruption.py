"""Signals that ask a training to end: it finishes its iteration, saves, and says how it goes on."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

SIGNALS = [getattr(signal, name) for name in ('SIGTERM', 'SIGHUP') if hasattr(signal, name)]  # Windows lacks the latter
# A batch system sends its signal to torchrun and to each of its processes, and torchrun passes it on: that is one.
RELAY_S = 1.0
# How long a process that torchrun left behind may take for its iteration and checkpoint, or hang.
ORPHAN_S = 60.0


class Interrupted(Exception):
    """A signal has ended a training, which is saved."""

    def __init__(self, signum: int, checkpoint: str) -> None:
        super().__init__(f'stopped by {signal.Signals(signum).name}; saved {checkpoint}')
        self.signum = signum


class _Wish:
    signum = 0
    time = 0.0


def requested() -> int:
    """Return the signal that has asked this process to end, 0 if none has."""
    return _Wish.signum


@contextmanager
def noticed() -> Iterator[None]:
    """Let SIGTERM and SIGHUP be `requested`, and a second one end the process at once; an ignored one stays so."""
    _Wish.signum = 0
    if threading.current_thread() is not threading.main_thread():  # which alone may handle signals
        yield
        return
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}  # SIGHUP is ignored under nohup
    for signum in (signum for signum, handler in before.items() if handler != signal.SIG_IGN):
        signal.signal(signum, _notice)
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
        _Wish.signum = 0


def _notice(signum: int, frame: object) -> None:
    now = time.monotonic()
    if not _Wish.signum:
        _Wish.signum, _Wish.time = signum, now
        name = signal.Signals(signum).name
        if os.environ.get('RANK', '0') == '0':  # os.write: a stream may be in the middle of a write
            os.write(2, f'{name}: finishing the iteration and saving; a second signal ends at once\n'.encode())
    elif now - _Wish.time > (RELAY_S if _under_torchrun() else 0):
        signal.signal(signum, signal.SIG_DFL)
        os.kill(os.getpid(), signum)


def obey_parent_alone() -> None:
    """Ignore SIGTERM and SIGHUP unless they come from the parent, which needs this process: a group may get them."""
    if not hasattr(signal, 'sigwaitinfo'):  # the sender is not known
        return
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)

    def wait() -> None:
        while signal.sigwaitinfo(SIGNALS).si_pid != os.getppid():
            pass
        os._exit(0)

    threading.Thread(target=wait, daemon=True).start()


def _under_torchrun() -> bool:
    return 'TORCHELASTIC_RUN_ID' in os.environ


def end_with_torchrun() -> None:
    """If torchrun started this process, let it end as by SIGTERM when torchrun is gone, killed for instance."""
    if not _under_torchrun():
        return
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(ORPHAN_S)
        os._exit(128 + signal.SIGTERM)  # it waits for a process that is gone, where no signal reaches it

    threading.Thread(target=watch, daemon=True).start()


def resuming_command(name: str, argv: Sequence[str]) -> str:
    """Return the command that resumes what the command `name` with `argv` has begun, as one line for a shell."""
    words: list[str] = []
    of_resume = False
    for word in argv:
        option = word.partition('=')[0]
        start = len(option) > 4 and any(full.startswith(option) for full in ('--resume', '--overwrite'))
        if not start and not (of_resume and not word.startswith('-')):
            words.append(word)
        of_resume = start and word.startswith('--r') and '=' not in word
    script = Path(sys.argv[0])
    if script.stem.replace('_', '-') == name:
        program = [sys.argv[0]]
    elif script.suffix == '.py':
        program = ['-m', __package__, name]
    else:
        program = [sys.argv[0], name]
    if _under_torchrun():
        alone = ['--standalone'] if os.environ.get('GROUP_WORLD_SIZE') == '1' else []
        processes = ['--nproc-per-node', os.environ.get('LOCAL_WORLD_SIZE', '1')]
        program = ['-m', 'torch.distributed.run', *alone, *processes, *program]
    python = [sys.executable] if program[0] == '-m' or program[0].endswith('.py') else []
    return shlex.join([*python, *program, *words, '--resume'])
