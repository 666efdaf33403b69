"""Small plots of measurements."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ..files import atomic_write


def bar_chart(groups: Mapping[str, Mapping[str, float]], path: str | Path, *, title: str, unit: str) -> None:
    """Draw one horizontal bar a value, in groups of one colour, as a PNG file at `path`; values are written beside."""
    from matplotlib.figure import Figure

    bars = [(f'{name}', value, index) for index, group in enumerate(groups.values()) for name, value in group.items()]
    figure = Figure(figsize=(8, 0.8 + 0.28 * len(bars)), layout='constrained')
    axes = figure.subplots()
    drawn = axes.barh(range(len(bars)), [value for _, value, _ in bars], color=[f'C{index}' for *_, index in bars])
    axes.bar_label(
        drawn, [f'{value:.3g}' if value < 1000 else f'{value:.0f}' for _, value, _ in bars], padding=3, fontsize=8
    )
    axes.set_yticks(range(len(bars)), [name for name, *_ in bars], fontsize=8)
    axes.invert_yaxis()
    axes.set_xlabel(unit, fontsize=8)
    axes.set_title(title, fontsize=9)
    axes.tick_params(axis='x', labelsize=8)
    axes.margins(x=0.12)
    axes.spines[['top', 'right']].set_visible(False)
    if len(groups) > 1:
        first = {index: drawn[position] for position, (*_, index) in reversed(list(enumerate(bars)))}
        handles = [first[index] for index in range(len(groups))]
        axes.legend(handles, list(groups), fontsize=8, frameon=False, loc='upper left', bbox_to_anchor=(1, 1))
    with atomic_write(path) as file:
        figure.savefig(file, format='png', dpi=110)
