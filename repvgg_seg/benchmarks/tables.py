"""Writes the tables of README.md and docs/ from results/: `make tables`.

A table stands between two comments, and says what it is made from:

    <!-- table: results/peers/zen4_512x1024.json; rows: what; metrics: latency + work -->
    <!-- end of table -->

`rows` names the fields of a result (what, variant, runtime, metric) that make a row of the table; the others make its
columns, and figures that fall into one cell stand beside each other. `without` is a regular expression: results are
left out where it finds something in what, variant, runtime and metric. Below the table stand machine, date, versions
and command.
"""

from __future__ import annotations

import itertools
import json
import os
import re
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..files import read_text, write_text
from ..terminal import say
from .report import Report, Row, figure

BEGIN, END = '<!-- table: ', '<!-- end of table -->'
TABLE = re.compile(f'^{BEGIN}(.*?) -->\n.*?^{END}$', re.MULTILINE | re.DOTALL)
FIELDS = ('what', 'variant', 'runtime', 'metric')


def renew(page: Path, root: Path) -> str:
    """Return the text of a page with its tables made anew from the files below `root`.

    Raises:
        FileNotFoundError: a file of results is not there.
        ValueError: it is of another or an older kind, or a table asks for what no file has.
    """

    def made(found: re.Match[str]) -> str:
        return f'{BEGIN}{found[1]} -->\n{table(found[1], root, page.parent)}{END}'

    result = TABLE.sub(made, read_text(page))
    if result.count(BEGIN) != len(TABLE.findall(result)):
        raise ValueError(f'{page}: a table that begins with {BEGIN!r} does not end with {END!r}')
    return result


def table(wish: str, root: Path, folder: Path) -> str:
    """Return the table that `wish` asks for, for a page in `folder`, and what it was measured with.

    Raises:
        FileNotFoundError, ValueError: see `renew`.
    """
    names, *rest = (part.strip() for part in wish.split(';'))
    options = dict(part.split(': ', 1) for part in rest)
    if unknown := set(options) - {'rows', 'metrics', 'without'}:
        raise ValueError(f'a table has rows, metrics and without, and no {", ".join(sorted(unknown))}: {wish}')
    reports = {name: read(root / name) for name in names.split()}
    across = options['rows'].split()
    metrics = options['metrics'].split(' + ')
    rows = [
        row for report in reports.values() for row in report.rows if row.metric in metrics and row.value is not None
    ]
    if 'without' in options:
        rows = [row for row in rows if not re.search(options['without'], ', '.join(getattr(row, f) for f in FIELDS))]
    if missing := set(metrics) - {row.metric for row in rows}:
        raise ValueError(f'{names} has no {", ".join(sorted(missing))}')
    cells: dict[str, dict[str, list[str]]] = {}
    down = [name for name in FIELDS if name not in across and (name != 'metric' or len(across) == 3)]
    for row in sorted(rows, key=lambda row: metrics.index(row.metric)):
        cells.setdefault(_label(row, across), {}).setdefault(_label(row, down) or row.metric, []).append(_cell(row))
    order = dict.fromkeys(_label(row, across) for row in rows)
    columns = dict.fromkeys(column for label in order for column in cells[label])
    links = [Path(os.path.relpath(root / name, folder)).as_posix() for name in reports]
    lines = [_line(['', *columns]), _line(['---'] * (1 + len(columns)))]
    lines += [_line([label, *(', '.join(cells[label].get(column, ['–'])) for column in columns)]) for label in order]
    return '\n'.join([*lines, '', *map(_origin, links, reports.values(), itertools.repeat(rows)), ''])


def _label(row: Row, names: Iterable[str]) -> str:
    return ', '.join(filter(None, (getattr(row, name) for name in names)))


def _cell(row: Row) -> str:
    unit = {'x': 'x', '': '', '%': ' %'}.get(row.unit, f' {row.unit}')
    return figure(row) + unit


def _line(cells: Iterable[str]) -> str:
    return f'| {" | ".join(cell.replace("|", "/") for cell in cells)} |'.replace('|  |', '| |')


def _origin(link: str, report: Report, rows: Iterable[Row]) -> str:
    """Return machine, date, versions and command in a sentence."""
    own = [row for row in report.rows if row in rows]
    sizes = dict.fromkeys(f'{key} {row.extra[key]}' for row in own for key in ('size', 'batch') if key in row.extra)
    machine = [f'{report.machine[key]}{unit}' for key, unit in (('device', ''), ('threads', ' threads'))
               if key in report.machine]  # fmt: skip
    versions = [f'{package} {version}' for package, version in report.versions.items()]
    facts = ', '.join([*sizes, *machine, report.date, *versions])
    return f'- [{Path(link).name}]({link}): {facts}: `{report.command}`'


def read(path: Path) -> Report:
    """Read a file of results: of a benchmark, of a conversion, or of `test --json`.

    Raises:
        FileNotFoundError: it is not there.
        ValueError: it is none of these, or of an older kind.
    """
    text = read_text(path)
    try:
        values = json.loads(text)
        if 'verification' in values:
            return _of_conversion(values)
        return _of_test(values) if 'results' in values else Report.read(text)
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f'{path} cannot be read ({error}): measure it anew, with the command it tells') from error


def _of_conversion(values: dict[str, Any]) -> Report:
    checks: dict[str, float] = {}
    for one in values['verification']:
        checks[one['check']] = max(checks.get(one['check'], 0), one['max_rel'])
    what = Path(values['model']).stem
    rows = [Row(what, check, '', 'largest deviation', value, '') for check, value in checks.items()]
    command = f'repvgg-seg convert-deploy {values["model"]} {values["source"]["file"]} OUT'
    return Report('conversion', command, {}, values['versions'], values['created'][:10], rows)


def _of_test(values: dict[str, Any]) -> Report:
    what = Path(values['config']['file'] or 'recorded config').stem
    rows = [
        Row(what, form, '', metric, result[metric], '%')
        for form, result in values['results'].items()
        for metric in ('mIoU', 'mAcc', 'aAcc')
    ]
    command = f'repvgg-seg test {values["config"]["file"] or ""} WEIGHTS --json FILE'
    return Report('test', command, {'device': values['device']}, values['versions'], values['created'][:10], rows)


def main(root: Path) -> int:
    """Renew the pages of a checkout and say which of them changed."""
    for page in (root / 'README.md', *sorted((root / 'docs').glob('*.md'))):
        text = read_text(page)
        if (made := renew(page, root)) != text:
            write_text(made, page)
            say(f'{page.relative_to(root)}: renewed')
    return 0


if __name__ == '__main__':
    sys.exit(main(Path.cwd()))
