"""The result of every comparison, flat rows, and how rows are printed, drawn, written and read."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from ..files import StrPath, atomic_write, write_text

if TYPE_CHECKING:  # it loads torch
    from ..timing import Latency

LATENCY, SPEED_UP, THROUGHPUT, PEAK_MEMORY = 'latency', 'speed-up', 'throughput', 'peak memory'


@dataclass(frozen=True)
class Row:
    """One figure. `extra` holds facts about it: size (HEIGHTxWIDTH), batch, runs, min, p95, note, and the like."""

    what: str  # a network, a data set, a training
    variant: str  # its form, such as 'train-time' and 'deployed', or ''
    runtime: str  # such as 'OpenVINO bf16', see runtimes.runtimes(), or ''
    metric: str
    value: float | None  # None: not measured, and extra['note'] says why
    unit: str
    extra: Mapping[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """What was measured, without the runtime."""
        return ', '.join(filter(None, (self.what, self.variant)))

    def derived(self, metric: str, value: float, unit: str) -> Row:
        """Return a row of the same thing with another figure, computed from this one."""
        extra = {name: self.extra[name] for name in ('size', 'batch') if name in self.extra}
        return Row(self.what, self.variant, self.runtime, metric, value, unit, extra)


def timed(latency: Latency, what: str, variant: str, runtime: str, metric: str = LATENCY, **extra: Any) -> Row:
    """Return the median as a row, which holds the other figures as well."""
    extra |= {'runs': latency.runs, 'min': latency.min_ms, 'p95': latency.p95_ms}
    return Row(what, variant, runtime, metric, latency.p50_ms, 'ms', extra)


def speed_ups(rows: Iterable[Row], reference: Callable[[Row], bool], same: Sequence[str] = ()) -> list[Row]:
    """Return how many times as fast as its reference each row of times is.

    The reference of a row is the one of the same metric, and of equal fields `same`, for which `reference` is true.
    """
    measured = [(row, row.value, (row.metric, *(getattr(row, name) for name in same))) for row in rows if row.value]
    bases = {key: value for row, value, key in measured if reference(row)}
    return [
        row.derived(SPEED_UP if row.metric == LATENCY else f'{SPEED_UP}, {row.metric}', bases[key] / value, 'x')
        for row, value, key in measured
        if key in bases and not reference(row)
    ]


@dataclass(frozen=True)
class Report:
    """The rows of a comparison, and what they were measured with."""

    benchmark: str
    command: str
    machine: dict[str, Any]  # device, threads, instruction sets
    versions: dict[str, str]
    date: str  # ISO 8601
    rows: list[Row]

    def write(self, path: StrPath) -> None:
        """Write it as JSON, with a line a row."""
        rows = ',\n  '.join(json.dumps({**_facts(row), **row.extra}) for row in self.rows)
        head = json.dumps({name: value for name, value in _facts(self).items() if name != 'rows'}, indent=1)
        write_text(f'{head[:-2]},\n "rows": [\n  {rows}\n ]\n}}\n', path)

    @classmethod
    def read(cls, text: str) -> Report:
        """Read what `write` wrote.

        Raises:
            ValueError: it is something else.
        """
        values = json.loads(text)
        names = {item.name for item in fields(cls)}
        if not isinstance(values, dict) or set(values) != names:
            raise ValueError(f'a report of a benchmark has {", ".join(sorted(names))}')
        return cls(**values | {'rows': [_row(row) for row in values['rows']]})


_FACTS = {item.name for item in fields(Row)} - {'extra'}


def _facts(record: Row | Report) -> dict[str, Any]:
    return {item.name: getattr(record, item.name) for item in fields(record) if item.name != 'extra'}


def _row(values: dict[str, Any]) -> Row:
    if missing := _FACTS - set(values):
        raise ValueError(f'a row of a report lacks {", ".join(sorted(missing))}: {values}')
    if values['value'] is None and not values.get('note'):
        raise ValueError(f'a row of a report has neither a value nor a note that says why: {values}')
    extra = {name: value for name, value in values.items() if name not in _FACTS}
    return Row(**{name: values[name] for name in _FACTS}, extra=extra)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text: of each metric a table with a column a runtime, and one of what has no runtime."""
    sections: dict[str, dict[str, dict[str, str]]] = {}
    for row in rows:
        if row.value is not None:
            metric = f'{row.metric}, {row.unit}' if row.unit != 'x' else row.metric
            title, column = (metric, row.runtime) if row.runtime else ('', metric)
            sections.setdefault(title, {}).setdefault(row.name, {})[column] = figure(row)
    lines = []
    width = 2 + max((len(name) for section in sections.values() for name in (*section, *sections)), default=0)
    for title, section in sections.items():
        columns = list(dict.fromkeys(column for cells in section.values() for column in cells))
        lines.append(f'{title:<{width}}' + ''.join(f'  {column:>8}' for column in columns))
        for name, cells in section.items():
            values = (f'  {cells.get(column, "-"):>{max(8, len(column))}}' for column in columns)
            lines.append(f'{name:<{width}}' + ''.join(values))
        lines.append('')
    failed: dict[str, list[str]] = {}
    for row in rows:
        if row.value is None:
            failed.setdefault(f'{row.runtime} ({row.extra["note"]})'.strip(), []).append(row.name)
    lines += [f'not measured: {why}: {"; ".join(dict.fromkeys(names))}' for why, names in failed.items()]
    return '\n'.join(lines).rstrip()


def figure(row: Row) -> str:
    """Return a value as it is printed."""
    if row.value is None:
        return '-'
    digits = 6 if row.unit == '%' else 4
    return f'{row.value:.0f}' if abs(row.value) >= 10 ** (digits - 1) else f'{row.value:.{digits}g}'


def plot(rows: Sequence[Row], path: StrPath, title: str) -> None:
    """Draw the rows that have the first one's unit as bars, as a PNG file: a group a network, a colour a runtime."""
    from matplotlib.figure import Figure

    unit = next((row.unit for row in rows if row.value is not None), '')
    groups: dict[str, list[tuple[str, float, str]]] = {}
    for row in rows:
        if row.unit == unit and row.value is not None:
            heading, label = (f'{row.name}: {row.metric}', row.runtime) if row.runtime else (row.name, row.metric)
            groups.setdefault(heading, []).append((label, row.value, figure(row)))
    labels = list(dict.fromkeys(label for bars in groups.values() for label, *_ in bars))
    height = sum(len(bars) + 1.2 for bars in groups.values())
    canvas = Figure(figsize=(9, 1 + 0.25 * height), layout='constrained')
    axes = canvas.subplots()
    ticks: dict[float, str] = {}
    y = 0.0
    for heading, bars in groups.items():
        axes.text(0, y, f' {heading}', fontsize=8, fontweight='bold', va='center')
        for label, value, text in bars:
            y += 1
            axes.barh(y, value, color=f'C{labels.index(label)}')
            axes.text(value, y, f' {text}', fontsize=8, va='center')
            ticks[y] = label
        y += 1.2
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=8)
    axes.set_ylim(y - 0.4, -0.8)
    if unit == 'x':
        axes.axvline(1, color='grey', linewidth=0.8, zorder=0)
    axes.margins(x=0.1)
    axes.set_xlabel({'x': 'times as fast'}.get(unit, unit), fontsize=8)
    axes.set_title(title, fontsize=9)
    axes.tick_params(axis='x', labelsize=8)
    axes.spines[['top', 'right']].set_visible(False)
    with atomic_write(path) as file:
        canvas.savefig(file, format='png', dpi=110)
