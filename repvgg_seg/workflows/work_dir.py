"""Work directories of trainings, and the checkpoints in them that stand for them."""

from __future__ import annotations

import re
from pathlib import Path

from mmengine.config import Config

from ..openmmlab.work_dir import latest
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
    last = latest(folder) or folder / 'deploy.pth'
    if not last.is_file():
        raise FileNotFoundError(f'{folder} holds no checkpoint: name a .pth file, or train first with tools/train.py')
    # A best checkpoint with a higher number than the latest is of an earlier, longer run in the same directory.
    candidates = [p for p in folder.glob('best_*.pth') if _step(p) <= _step(last)] if best else []
    return str(max(candidates, key=lambda p: p.stat().st_mtime, default=last))


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


def default_work_dir(cfg: Config) -> str:
    """Return work_dirs/NAME_OF_CONFIG, or what the config says."""
    return cfg.get('work_dir') or str(Path('work_dirs', Path(cfg.filename).stem))
