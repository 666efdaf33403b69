"""Work directories of trainings: which checkpoints they hold, and whether another training may start in one."""

from __future__ import annotations

import re
from pathlib import Path

from mmengine.config import Config

from ..weights.pretrained import Checkpoint


def find_checkpoint(path: str | Path, *, best: bool = True) -> str:
    """Return `path`, or for a work directory its best checkpoint (unless not `best`) or else its latest.

    A folder that tools/convert_deploy.py wrote stands for its deploy.pth.

    Raises:
        FileNotFoundError: the directory holds no checkpoint.
    """
    folder = Path(path)
    if not folder.is_dir():
        return str(path)
    pointer = folder / 'last_checkpoint'  # mmengine writes a path here; only its name survives moving the directory
    latest = folder / Path(pointer.read_text().strip()).name if pointer.is_file() else folder / 'deploy.pth'
    if not latest.is_file():
        raise FileNotFoundError(f'{folder} holds no checkpoint: name a .pth file, or train first with tools/train.py')
    # A best checkpoint with a higher number than the latest is of an earlier, longer run in the same directory.
    candidates = [p for p in folder.glob('best_*.pth') if _step(p) <= _step(latest)] if best else []
    return str(max(candidates, key=lambda p: p.stat().st_mtime, default=latest))


def _step(checkpoint: Path) -> int:
    """Return the iteration or epoch in the name of a checkpoint."""
    numbers = re.findall(r'\d+', checkpoint.stem)
    return int(numbers[-1]) if numbers else 0


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Read a checkpoint, or the one that a work directory stands for: see `find_checkpoint`.

    Raises:
        FileNotFoundError: the directory holds no checkpoint.
        WeightsError: the file cannot be had or read.
    """
    return Checkpoint.read(find_checkpoint(path))


def begin_work_dir(work_dir: str | Path, *, overwrite: bool) -> None:
    """Let a training start in `work_dir`, which holds no checkpoints, or ones that `overwrite` removes.

    Raises:
        ValueError: it holds checkpoints of another training, which would be mixed with those of this one.
    """
    patterns = ('iter_*.pth', 'epoch_*.pth', 'best_*.pth', 'last_checkpoint')
    found = sorted(path for pattern in patterns for path in Path(work_dir).glob(pattern))
    if found and not overwrite:
        raise ValueError(
            f'{work_dir} holds {found[0].name} of another training: go on with it by --resume, choose another '
            '--work-dir, or remove its checkpoints by --overwrite'
        )
    for path in found:
        path.unlink(missing_ok=True)


def default_work_dir(cfg: Config) -> str:
    """Return work_dirs/NAME_OF_CONFIG, or what the config says."""
    return cfg.get('work_dir') or str(Path('work_dirs', Path(cfg.filename).stem))


def resume_from(cfg: Config, resume: str | None) -> None:
    """Let `cfg` resume from a checkpoint file, from the 'latest' of its work directory, or (None) not at all.

    Raises:
        FileNotFoundError: there is no such checkpoint.
    """
    if not resume:
        return
    cfg.resume = True
    fresh = resume == 'latest' and not Path(cfg.work_dir, 'last_checkpoint').is_file()
    cfg.load_from = None if fresh else find_checkpoint(cfg.work_dir if resume == 'latest' else resume, best=False)
    if cfg.load_from and not Path(cfg.load_from).is_file():
        raise FileNotFoundError(f'there is no checkpoint {cfg.load_from} to resume from')
