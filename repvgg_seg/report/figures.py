"""Figures as SVG elements of a page: real text, and the colours of the page, light or dark."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from markupsafe import Markup, escape
from matplotlib.figure import Figure

# Stand for colours of the page while matplotlib draws.
INK, FAINT = '#010203', '#040506'
_COLOURS = {INK: 'var(--ink)', FAINT: 'var(--line)'}
LINES = ('#3f7fe8', '#e0680a', '#1c9a58', '#c2379b', '#8a8f98', '#a8801c')  # seen on white and on black
STYLE: Any = {
    'svg.fonttype': 'none',
    'text.parse_math': False,  # a class may be called a$b$c
    'text.color': INK,
    'axes.labelcolor': INK,
    'axes.edgecolor': FAINT,
    'xtick.color': INK,
    'ytick.color': INK,
    'grid.color': FAINT,
    'font.size': 10,
    'axes.spines.top': False,
    'axes.spines.right': False,
}
Curve = tuple[Sequence[int], Sequence[float]]  # steps and values


def printable(text: str) -> str:
    """Return text that may stand in HTML: without control characters, and without bytes that are no text."""
    unwanted = r'[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\ufdd0-\ufdef\ufffe\uffff]'
    return re.sub(unwanted, '\ufffd', text)


def svg(figure: Figure, name: str, title: str, *, fixed: bool = False) -> Markup:
    """Return a figure as an element; `name` keeps its ids apart from those of others, `title` is read aloud.

    It is as wide as the page lets it be, within limits, or, if `fixed`, as it was drawn.
    """
    buffer = io.StringIO()
    figure.savefig(buffer, format='svg', transparent=True, metadata={'Date': None})
    text = re.sub(r'<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->', '', buffer.getvalue(), flags=re.DOTALL)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf'\g<1>{name}-', text[text.index('<svg') :])
    width, height = (72 * float(inches) for inches in figure.get_size_inches())
    limits = (1.33 * width, 1.33 * width) if fixed else (min(width, 320), 1.4 * width)
    opening = (
        f'<svg role="img" aria-label="{escape(title)}" viewBox="0 0 {width:g} {height:g}" '
        f'style="stroke-linejoin: round; min-width: {limits[0]:g}px; max-width: {limits[1]:g}px">'
    )
    text = opening + text.partition('>')[2]
    for stand_in, colour in _COLOURS.items():
        text = text.replace(stand_in, colour)
    return Markup(text)


def lines(curves: Mapping[str, Curve], name: str, title: str, x_label: str) -> Markup:
    """Draw values over steps."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5, 3.1), layout='constrained')
        axes = figure.subplots()
        for number, (label, (steps, values)) in enumerate(curves.items()):
            marker = 'o' if len(steps) < 20 else ''
            colour = LINES[number % len(LINES)]
            axes.plot(steps, values, marker=marker, markersize=3.5, linewidth=1.5, color=colour, label=label)
        axes.grid(linewidth=0.6)
        axes.set_xlabel(x_label)
        axes.set_title(title, fontsize=11, loc='left')
        if len(curves) > 1:
            figure.legend(frameon=False, fontsize=9, loc='outside lower center', ncols=3)
        return svg(figure, name, f'{title} over the {x_label}s of the training')


def bars(rows: Mapping[str, Sequence[Mapping[str, Any]]], palette: Sequence[Sequence[int]], name: str) -> Markup:
    """Draw the IoU of each class, the best first: a bar for the first form, a dot for each other one."""
    first, *others = rows
    ious = {form: [np.nan if row['IoU'] is None else row['IoU'] for row in found] for form, found in rows.items()}
    order = sorted(range(len(ious[first])), key=lambda i: np.nan_to_num(ious[first][i], nan=-1))
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5, 0.9 + 0.22 * len(order)), layout='constrained')
        axes = figure.subplots()
        for y, i in enumerate(order):
            value = ious[first][i]
            colour = [channel / 255 for channel in palette[i]]
            axes.barh(y, value, color=colour, edgecolor=INK, linewidth=0.5, height=0.72)
            text = 'not in the labels' if np.isnan(value) else f'{value:.1f}'
            axes.text(np.nan_to_num(value) + 1.5, y, text, va='center')
        for number, form in enumerate(others, 1):
            values, line = [ious[form][i] for i in order], LINES[number % len(LINES)]
            axes.plot(values, range(len(order)), 'D', markersize=4, color=line, label=_short(form, 40))
        axes.set_yticks(range(len(order)), [_short(rows[first][i]['class']) for i in order])
        axes.set_ylim(-0.6, len(order) - 0.4)
        axes.set_xlim(0, 115)
        axes.set_xticks(range(0, 101, 25))
        axes.set_xlabel('IoU, %')
        if others:
            figure.legend(frameon=False, fontsize=9, loc='outside upper right')
        return svg(figure, name, 'IoU of each class')


def matrix(confusion: Sequence[Sequence[int]], classes: Sequence[str], name: str) -> Markup:
    """Draw which share of each class's pixels (rows) is taken for which class (columns), in percent."""
    counts = np.asarray(confusion, np.float64)
    totals = counts.sum(1, keepdims=True)
    shares = np.divide(counts, totals, out=np.zeros_like(counts), where=totals > 0)
    number, few = len(classes), len(classes) <= 30
    side = max(1.2, number * (0.34 if few else 0.17)) + 2.6  # room for the names
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(side, side), layout='constrained')
        axes = figure.subplots()
        pixels = np.zeros((number, number, 4))
        pixels[..., :3] = [0.25, 0.5, 0.91]
        pixels[..., 3] = 0.8 * shares**0.5  # rare confusions are seen as well
        axes.imshow(pixels, interpolation='none', aspect='equal')
        for y, x in zip(*np.nonzero(shares >= 0.005), strict=True) if few else ():
            axes.text(x, y, f'{100 * shares[y, x]:.0f}', ha='center', va='center', fontsize=8)
        size = 10 if few else 7
        axes.set_xticks(range(number), [_short(each) for each in classes], rotation=90, fontsize=size)
        axes.set_yticks(range(number), [_short(each) for each in classes], fontsize=size)
        axes.set_xlabel('prediction')
        axes.set_ylabel('truth')
        title = 'Confusion matrix: of each class the share of its pixels that is taken for each class'
        return svg(figure, name, title, fixed=True)


def _short(text: str, length: int = 22) -> str:
    return printable(text if len(text) <= length else f'{text[: length - 1]}…')
