"""The work directory of a training: one training's alone, begun anew or resumed from the newest whole checkpoint."""

from __future__ import annotations

import logging
import re
import shutil
import uuid
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mmengine.config import Config
from mmengine.logging import print_log

from ..files import write_text
from ..locking import locked
from ..weights.checkpoint_io import WeightsError, not_finite, read_checkpoint

LOCK = '.lock'
RUN = '.run'  # holds the name of the run that a work directory belongs to, which is in each checkpoint, too
RUN_KEY = 'run'  # in the meta data of a checkpoint
POINTER = 'last_checkpoint'  # holds the path of a checkpoint, of which only the name survives moving the directory
SCALARS, PICTURES = 'scalars.csv', 'validation'  # what openmmlab/watching.py writes
_LEFTOVER = re.compile(r'\.(iter_|epoch_|best_|last_checkpoint|unreadable_files|.*-pretrain).*\.[0-9a-f]{8}\.tmp')


@contextmanager
def own_work_dir(
    cfg: Config,
    *,
    resume: str | None,
    overwrite: bool,
    first: bool,
    fits: Callable[[str], object] = lambda checkpoint: None,
) -> Iterator[None]:
    """Hold the work directory of `cfg` for one training, and let `cfg` begin in it or resume.

    `resume` is a checkpoint file, 'latest' of the work directory, or None to begin anew; then `overwrite` removes the
    checkpoints of another training. `fits` raises if a checkpoint cannot be resumed here, before anything is written.
    Of several processes, the `first` one holds the directory.

    Raises:
        FileNotFoundError: there is no such checkpoint.
        ValueError: another process trains there, it holds checkpoints of another training, or none that is whole.
    """
    folder = Path(cfg.work_dir)
    if not first:
        _resume(cfg, resume, log=False)
        yield
        return
    cure = 'wait for it, or end it and go on with --resume, or choose another --work-dir'
    with locked(folder / LOCK, cure):
        _begin(folder, resume, overwrite)
        _resume(cfg, resume, log=True)
        if cfg.get('load_from') and cfg.get('resume'):
            fits(cfg.load_from)
        if resume is None or not (folder / RUN).is_file():
            write_text(uuid.uuid4().hex, folder / RUN)
        yield


def _begin(folder: Path, resume: str | None, overwrite: bool) -> None:
    """Remove what killed runs left half written and, if wanted, the checkpoints of another training.

    Raises:
        ValueError: those of another training would be mixed with those of this one.
    """
    for path in folder.iterdir():
        if _LEFTOVER.fullmatch(path.name):
            path.unlink(missing_ok=True)
    elsewhere = resume not in (None, 'latest') and Path(resume).resolve().parent != folder.resolve()
    found = sorted([*checkpoints(folder), *folder.glob('best_*.pth'), *folder.glob(POINTER)])
    if resume is not None and not elsewhere:
        return
    if found and not overwrite:
        raise ValueError(
            f'{folder} holds {found[0].name} of another training: go on with it by --resume, choose another '
            '--work-dir, or remove its checkpoints by --overwrite'
        )
    for path in found:
        path.unlink(missing_ok=True)
    if overwrite and resume is None:
        (folder / SCALARS).unlink(missing_ok=True)
        shutil.rmtree(folder / PICTURES, ignore_errors=True)


def checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a work directory that a training can go on from, whole or not."""
    return sorted({path for pattern in ('iter_*.pth', 'epoch_*.pth') for path in folder.glob(pattern)} | _last(folder))


def _last(folder: Path) -> set[Path]:
    """Return the checkpoint that a work directory calls its last, if it is there."""
    pointer = folder / POINTER
    name = Path(pointer.read_text(errors='replace').strip()).name if pointer.is_file() else ''
    return {folder / name} if name and (folder / name).is_file() else set()


def latest(folder: Path) -> Path | None:
    """Return the checkpoint that a work directory calls its last or, if that is not there, the last one written."""
    return max(_last(folder) or checkpoints(folder), key=lambda path: path.stat().st_mtime, default=None)


def last_good(folder: str | Path) -> str:
    """Say which checkpoint a training that ended in an error can go on from."""
    path = latest(Path(folder))
    return f'the last good checkpoint is {path}' if path else 'there is no checkpoint yet'


def _resume(cfg: Config, resume: str | None, *, log: bool) -> None:
    if resume is None:
        return
    cfg.resume, cfg.load_from = True, None
    given = Path(cfg.work_dir if resume == 'latest' else resume)
    path: Path | None = given
    if given.is_dir():
        path, skipped = newest_whole(given)
        for error in skipped if log else ():
            print_log(f'passed over: {error}', 'current', logging.WARNING)
        if skipped and not path:
            raise ValueError(f'{given} holds no checkpoint to go on from: {skipped[0]}; begin anew with --overwrite')
        if not path and resume != 'latest':
            raise FileNotFoundError(f'{given} holds no checkpoint to resume from: name another one')
    elif given.is_file():
        _read(given)
        _check(given)
    else:
        raise FileNotFoundError(f'there is no checkpoint {given} to resume from')
    if path:
        cfg.load_from = str(path)
        if log:
            print_log(f'resuming from {path}', 'current')


def newest_whole(folder: Path) -> tuple[Path | None, list[WeightsError]]:
    """Return the checkpoint after most iterations that is whole, finite and of this work directory's run.

    Also what is wrong with those that are newer, or that do not tell.
    """
    run = (folder / RUN).read_text().strip() if (folder / RUN).is_file() else None
    iterations: dict[Path, int] = {}
    skipped: list[WeightsError] = []
    for path in checkpoints(folder):
        try:
            meta = _read(path)
            if run and meta.get(RUN_KEY, run) != run:
                raise WeightsError(f'{path} is of another run, and was copied here')
            iterations[path] = meta['iter']
        except WeightsError as error:
            skipped.append(error)
    for path in sorted(iterations, key=lambda path: iterations[path], reverse=True):
        try:
            _check(path)
            return path, skipped
        except WeightsError as error:
            skipped.append(error)
    return None, skipped


def _read(path: Path) -> dict[str, Any]:
    """Return the meta data of a checkpoint.

    Raises:
        WeightsError: it is damaged, or not of a training.
    """
    meta = read_checkpoint(path, mmap=True).get('meta')
    if not isinstance(meta, dict) or not isinstance(meta.get('iter'), int):
        raise WeightsError(f'{path} is not a checkpoint of a training, which tells its iteration: name an iter_N.pth')
    return meta


def _check(path: Path) -> None:
    """Check that a training can go on from a checkpoint.

    Raises:
        WeightsError: it is damaged or not finite.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            damaged = archive.testzip()  # torch does not compare the sums
    except (zipfile.BadZipFile, NotImplementedError, OSError) as error:  # the second of a compression unknown to it
        raise WeightsError(f'{path} is damaged or cut short ({error}): name another checkpoint') from error
    if damaged:
        raise WeightsError(f'{path} is damaged in {damaged}: name another checkpoint')
    if bad := not_finite(read_checkpoint(path, mmap=True)):
        raise WeightsError(f'{path} is not finite in {bad}, so its training has diverged: name another checkpoint')
