"""The findings about a data set, as text to read and as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from .checks import CHECKS, RIGHT, Finding
from .tally import Tally


@dataclass(frozen=True)
class Report:
    """What a check of a whole data set found."""

    tallies: Sequence[Tally]
    findings: Sequence[Finding]

    @property
    def errors(self) -> int:
        """Number of findings that are errors."""
        return sum(finding.severity == 'error' for finding in self.findings)

    def data(self) -> dict[str, Any]:
        """Return it as plain data."""
        return {
            'splits': {
                tally.split.name: {
                    'samples': tally.samples,
                    'sizes': [[*size, count] for size, count in sorted(tally.sizes.items())],
                    'classes': tally.class_table(),
                    'numbers_in_masks': {str(i): int(n) for i, n in enumerate(tally.pixels) if n},
                }
                for tally in self.tallies
            },
            'findings': [asdict(finding) for finding in self.findings],
        }

    def __str__(self) -> str:
        """Return the samples, the classes, and a line for what is right or some for what is wrong."""
        lines = [_samples(tally) for tally in self.tallies]
        lines += ['', *_classes(self.tallies), '']
        for right in RIGHT:
            names = {check.name for checks in CHECKS.values() for check in checks if check.right == right}
            found = [finding for finding in self.findings if finding.check in names]
            lines += [f'{"ok":<9}{right}'] if not found else []
            for finding in sorted(found, key=lambda f: f.severity):
                lines.append(f'{finding.severity.upper():<9}{finding.split}: {finding.what}')
                lines += [f'{"":<9}  {example}' for example in finding.examples]
                lines += [f'{"":<9}  …'] if finding.count > len(finding.examples) > 0 else []
                lines.append(f'{"":<9}-> {finding.cure}')
        warnings = len(self.findings) - self.errors
        lines += ['', f'{_number(self.errors, "error")}, {_number(warnings, "warning")}']
        return '\n'.join(lines)


def _number(count: int, noun: str) -> str:
    return f'{count or "no"} {noun}{"" if count == 1 else "s"}'


def _samples(tally: Tally) -> str:
    sizes = sorted(tally.sizes, key=lambda size: size[0] * size[1])
    text = '' if not sizes else f'{sizes[0][0]}x{sizes[0][1]}'
    if len(sizes) > 1:
        text += f' to {sizes[-1][0]}x{sizes[-1][1]} ({len(sizes)} sizes)'
    return f'{tally.split.name:<9}{tally.samples:>7} images  {text}'


def _classes(tallies: Sequence[Tally]) -> list[str]:
    """Return a table of the shares of the classes; a bar is long where a class is frequent."""
    tables = [tally.class_table() for tally in tallies]
    names = [row['name'] for row in tables[0]]
    width = max(map(len, names), default=0)
    header = ''.join(f'{f"{tally.split.name} %":>12}{"images":>8}' for tally in tallies)
    lines = [f'{"class":<{width}}{header}']
    for i, name in enumerate(names):
        rows = [table[i] for table in tables if i < len(table)]
        cells = ''.join(f'{100 * row["share"]:>12.3f}{row["images"]:>8}' for row in rows)
        lines.append(f'{name:<{width}}{cells}  {"▇" * round(30 * rows[0]["share"] ** 0.5)}'.rstrip())
    return lines
