"""The ledger of the fault suite: what was tried, and what became of it."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path

import pytest

from repvgg_seg.environment import cpu
from tests.faults.report import OUTCOMES, RESULTS

# How many faults of each kind: a few in `make test`, more in `make test-faults`.
TRIES = int(os.environ.get('FAULT_TRIES', '2'))


class Ledger:
    """Counts the outcomes of faults: survived, refused in one sentence, something lost, something executed."""

    def __init__(self) -> None:
        self.rows: dict[str, dict[str, int]] = {}

    @contextmanager
    def trial(self, fault: str) -> Iterator[Callable[[str], None]]:
        """Count a trial in the row of `fault`, of the outcome that is told, or as lost where an assertion fails."""
        row, told = self.rows.setdefault(fault, dict.fromkeys(OUTCOMES, 0)), ['lost']
        row['tried'] += 1
        try:
            yield told.append
        except BaseException:
            told.append('lost')
            raise
        finally:
            row[told[-1]] += 1

    def write(self, path: Path) -> None:
        """Put the rows into the file, in the place of older ones of the same fault."""
        found = json.loads(path.read_text())['rows'] if path.is_file() else []
        rows = {row['fault']: row for row in found}
        facts = {'date': date.today().isoformat(), 'device': cpu()[0]}
        rows |= {fault: {'fault': fault, **row, **facts} for fault, row in self.rows.items()}
        text = ',\n'.join(f'  {json.dumps(row)}' for _, row in sorted(rows.items()))
        path.write_text(f'{{\n "command": "make test-faults",\n "rows": [\n{text}\n ]\n}}\n')


@pytest.fixture(scope='session')
def whole_ledger() -> Ledger:
    """The ledger of this session."""
    return Ledger()


@pytest.fixture
def ledger(whole_ledger: Ledger) -> Iterator[Ledger]:
    """Where tests note what became of each fault; written to results/ after each of them by `make test-faults`."""
    yield whole_ledger
    if 'FAULT_TRIES' in os.environ:
        whole_ledger.write(RESULTS)
