"""docs/reliability.md, made from what the fault suite wrote: `python -m tests.faults.report`."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
RESULTS = ROOT / 'results/reliability_report.json'
PAGE = ROOT / 'docs/reliability.md'
OUTCOMES = ('tried', 'survived', 'refused', 'lost', 'executed')
HEAD = """# Reliability

<!-- Written by `make test-faults` from results/reliability_report.json. -->

`make test-faults` causes each of these faults and looks at what is left. *Survived*: what was there is whole, and the
same command goes on to the same result. *Refused*: one sentence says what is wrong, and nothing is used that is not
whole. *Lost*: something that was finished is gone, damaged, or wrong without a word. *Executed*: code that a file holds
has run.

The column *tried* tells how many of each kind were run: of some, fewer than `make test-faults` runs.

`make test` runs a few of each kind. What is promised, and which files run code, is in [SECURITY.md](../SECURITY.md).

"""


def page(rows: list[dict]) -> str:
    """Return the page of the rows of results/reliability_report.json."""
    lines = [f'| fault | {" | ".join(OUTCOMES)} | on |', f'|---|{"--:|" * len(OUTCOMES)}---|']
    total = {name: sum(row[name] for row in rows) for name in OUTCOMES}
    for row in rows:
        cells = ' | '.join(str(row[name]) for name in OUTCOMES)
        lines.append(f'| {row["fault"]} | {cells} | {row["date"]}, {row["device"]} |')
    lines.append(f'| **all** | {" | ".join(f"**{total[name]}**" for name in OUTCOMES)} | |')
    return HEAD + '\n'.join(lines) + '\n'


if __name__ == '__main__':
    PAGE.write_text(page(json.loads(RESULTS.read_text())['rows']))
