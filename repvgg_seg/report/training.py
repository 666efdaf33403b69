"""What a folder of a training holds, whole or interrupted: the curves, the config, and what was made from it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..files import read_text

Record = Mapping[str, Any]  # a line of mmengine's scalars.json


@dataclass(frozen=True)
class Training:
    """The records of a training by their steps, and the file of its config."""

    steps: list[Record]  # with 'loss'
    evaluations: list[Record]  # with 'mIoU' and the like
    config: Path | None
    saved: list[int] = field(default_factory=list)  # steps of checkpoints

    @property
    def last_step(self) -> int:
        """How far it came, as far as is known: not every step is recorded."""
        return max([*self.saved, *(int(record['step']) for record in (*self.steps, *self.evaluations))], default=0)


def read_training(folder: Path) -> Training:
    """Read what mmengine wrote to a work directory; of a training that was resumed, what counts in the end.

    Raises:
        FileNotFoundError: the folder is not there.
        ValueError: it holds no training.
    """
    if not folder.is_dir():
        raise FileNotFoundError(f'{folder} is no folder: name the work directory of a training')
    records: list[Record] = []
    for path in sorted(folder.glob('*/vis_data/scalars.json')):
        found = list(_records(path))
        starts = [record['step'] for record in found if 'loss' in record]
        if starts:  # what an earlier start did beyond the point from which this one went on is void
            records = [record for record in records if record['step'] < min(starts)] + found
    configs = sorted(folder.glob('*.py'), key=lambda path: path.stat().st_mtime)
    if not records and not any(folder.glob('*.pth')):
        raise ValueError(f'{folder} holds no training, neither records of one nor a checkpoint: train first')
    return Training(
        [record for record in records if 'loss' in record],
        [record for record in records if 'loss' not in record],
        configs[-1] if configs else None,
        [int(name[1]) for path in folder.glob('iter_*.pth') if (name := re.fullmatch(r'iter_(\d+)', path.stem))],
    )


def _records(path: Path) -> Iterable[Record]:
    """Yield the lines of a file; the last one of a killed training may be half a line."""
    for line in read_text(path).splitlines():
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict) and isinstance(record.get('step'), int):
            yield record


def curves(records: Iterable[Record], wanted: Iterable[str]) -> dict[str, tuple[list[int], list[float]]]:
    """Return steps and values of each key that has one of `wanted` in its name."""
    found: dict[str, tuple[list[int], list[float]]] = {}
    for record in records:
        for key, value in record.items():
            if any(word in key for word in wanted) and isinstance(value, (int, float)):
                steps, values = found.setdefault(key, ([], []))
                steps.append(record['step'])
                values.append(value)
    return found


def read_reports(folder: Path, model_files: Iterable[Path]) -> dict[str, Any]:
    """Return what lies in the folder of the deployed model, and beside exported files, about what was proved.

    'conversion' is that of the converter, or None; 'exports' has that of each file by its path.

    Raises:
        ValueError: one of them is damaged, or of an older version.
    """
    converted = folder / 'report.json'
    beside = [path.with_name(f'{path.name}.report.json') for path in model_files]
    paths = dict.fromkeys([*beside, *sorted(folder.glob('*.report.json'))])
    return {
        'conversion': _json(converted, 'verification') if converted.is_file() else None,
        'exports': {str(path).removesuffix('.report.json'): _json(path, 'parity') for path in paths if path.is_file()},
    }


def _json(path: Path, part: str) -> Any:
    try:
        report = json.loads(read_text(path))
        if not (isinstance(report, dict) and part in report):
            raise ValueError(f'it has no {part}')
        return report
    except ValueError as error:
        raise ValueError(f'{path} is damaged ({error}): convert or export again') from error
