"""Puts what is known of a training into one HTML file that loads nothing from anywhere."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from ..timing import Latency
from . import figures
from .pictures import Picture
from .training import Training, curves

FOLDER = Path(__file__).parent
MOST_CONFUSIONS = 10


@dataclass(frozen=True)
class Contents:
    """All that a page tells; what is empty is left out of it.

    `results` has the metrics of each form, its 'classes' and its 'confusion', as `test --json` writes them; `reports`
    is of `read_reports`; `versions` has those of this package and others by what they made.
    """

    title: str
    state: str
    training: Training
    config: str
    commands: Sequence[str]
    reports: Mapping[str, Any]
    versions: Mapping[str, Mapping[str, str]]
    notes: Sequence[str] = ()
    results: Mapping[str, Any] = field(default_factory=dict)
    palette: Sequence[Sequence[int]] = ()
    worst: Sequence[Picture] = ()
    best: Sequence[Picture] = ()
    latencies: Mapping[str, Latency] = field(default_factory=dict)
    latency_text: str = ''


def render(contents: Contents) -> str:
    """Return the page."""
    environment = Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=True,  # names of classes and files are anybody's
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=lambda value: figures.printable(value) if type(value) is str else value,
    )
    proofs = [*_conversion(contents), *_exports(contents)]
    drawn = _curves(contents.training)
    values: dict[str, Any] = {'curves': drawn, 'proofs': proofs, **_accuracy(contents), **_pictures(contents)}
    sections = {
        'curves': 'Learning curves' if drawn else '',
        'accuracy': 'Accuracy' if contents.results else '',
        'confusions': 'Confusions' if contents.results else '',
        'images': 'Worst and best images' if contents.worst else '',
        'proofs': 'What was proved' if proofs else '',
        'latency': 'Latency' if contents.latencies else '',
        'origin': 'How it was made',
    }
    return environment.get_template('page.html').render(
        **{name: getattr(contents, name) for name in ('title', 'state', 'notes', 'worst', 'best', 'config',
                                                      'commands', 'latency_text')},
        **values,
        sections={anchor: heading for anchor, heading in sections.items() if heading},
        facts=_facts(contents),
        latency=[
            (name, *(f'{value:.1f} ms' for value in (one.p50_ms, one.p95_ms, one.min_ms)), one.runs)
            for name, one in contents.latencies.items()
        ],
        versions=_versions(contents.versions),
        commands_text='The training is told by the config that it recorded, not by the words that once started it.',
        css=Markup((FOLDER / 'page.css').read_text(encoding='utf-8')),
        script=Markup((FOLDER / 'page.js').read_text(encoding='utf-8')),
    )  # fmt: skip


def _facts(contents: Contents) -> list[tuple[str, str]]:
    facts = [(f'mIoU, {form}', f'{values["mIoU"]:.2f}') for form, values in contents.results.items()]
    facts += [(f'latency, {name}', f'{one.p50_ms:.1f} ms') for name, one in contents.latencies.items()]
    if conversion := contents.reports['conversion']:
        facts.append(('parameters, deployed', f'{conversion["parameters"]["deploy"] / 1e6:.2f} M'))
    return facts


def _curves(training: Training) -> list[Markup]:
    unit = 'epoch' if any('epoch' in record for record in training.steps) else 'iteration'
    wanted = {
        'loss': ('Loss', curves(training.steps, ['loss']), 'iteration'),
        'metrics': ('Accuracy on the val set, %', curves(training.evaluations, ['mIoU', 'mAcc', 'aAcc']), unit),
        'rate': ('Learning rate', curves(training.steps, ['lr']), 'iteration'),
    }
    return [figures.lines(found, name, title, label) for name, (title, found, label) in wanted.items() if found]


def _accuracy(contents: Contents) -> dict[str, Any]:
    if not contents.results:
        return {}
    first, *_ = contents.results.values()
    rows = {form: values['classes'] for form, values in contents.results.items()}
    classes = [row['class'] for row in first['classes']]
    counts = np.array(first['confusion'], np.float64)
    shares = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    np.fill_diagonal(shares, 0)
    order = [divmod(int(i), len(classes)) for i in shares.argsort(axis=None)[::-1][:MOST_CONFUSIONS]]
    return {
        'forms': [
            (form, *(f'{values[metric]:.2f}' for metric in ('mIoU', 'mAcc', 'aAcc')),
             *([f'{values["mIoU"] - first["mIoU"]:+.2f}' if values is not first else ''] * (len(rows) > 1)))
            for form, values in contents.results.items()
        ],
        'bars': figures.bars(rows, contents.palette, 'bars'),
        'classes': [
            (row['class'], *('–' if row[key] is None else f'{row[key]:.2f}' for key in ('IoU', 'Acc')),
             f'{row["pixels"]:,}')
            for row in first['classes']
        ],
        'confusions': [
            (classes[truth], classes[found], f'{shares[truth, found]:.1%}') for truth, found in order
            if shares[truth, found] > 0
        ],
        'matrix': figures.matrix(first['confusion'], classes, 'matrix'),
    }  # fmt: skip


def _pictures(contents: Contents) -> dict[str, Any]:
    if not contents.worst:
        return {}
    first, *_ = contents.results.values()
    names = [row['class'] for row in first['classes']]
    return {'legend': [(name, f'rgb({r}, {g}, {b})') for name, (r, g, b) in zip(names, contents.palette, strict=True)]}


def _conversion(contents: Contents) -> list[dict[str, Any]]:
    report = contents.reports['conversion']
    if not report:
        return []
    before, after = report['parameters']['train'], report['parameters']['deploy']
    return [
        {
            'heading': 'Conversion to plain 3x3 convolutions',
            'text': f'Both forms ran side by side, from image to class map: {before:,} parameters while training, '
            f'{after:,} deployed. Made on {report["created"][:10]}; nothing is written that is not equal.',
            'head': ['check', 'image', 'largest deviation', 'relative', 'same class'],
            'rows': [
                (
                    one['check'],
                    'x'.join(map(str, one['input_size'])),
                    f'{one["max_abs"]:.1e}',
                    f'{one["max_rel"]:.1e}',
                    f'{one["agreement"]:.4%}',
                )
                for one in report['verification']
            ],
        }
    ]


def _exports(contents: Contents) -> list[dict[str, Any]]:
    proofs = []
    weights = (contents.reports['conversion'] or {}).get('deployed', {}).get('sha256')
    for path, report in contents.reports['exports'].items():
        parity, metadata = report['parity'], report.get('metadata') or {}
        tolerated = parity['tolerated']
        rows = [
            ('pixels of the same class', f'{parity["agreement"]:.4%}', f'{tolerated["agreement"]:.2%} where decided'),
            ('largest deviation of the logits', f'{parity["max_rel"]:.1e}', f'{tolerated["max_rel"]:.1e}'),
        ]
        if decided := parity.get('decided'):
            share = f'of the {decided["share"]:.2%} that rounding cannot change, the same class'
            rows.append((share, f'{decided["agreement"]:.4%}', ''))
        if quantization := report.get('quantization'):
            limits = quantization['tolerated']
            limit = limits['min_agreement']
            kept = f'{quantization["agreement"]:.2%}'
            rows.append(('int8: pixels that keep their class', kept, '' if limit is None else f'{limit:.2%}'))
            if mean_iou := quantization.get('mIoU'):
                fall = f'{mean_iou["fp32"]:.2f} to {mean_iou["int8"]:.2f}'
                rows.append(('int8: mIoU on the val set', fall, f'at most {limits["max_drop"]:g} lower'))
        text = f'{parity["images"]} images ran through the file and through torch in float32.'
        if report.get('refused'):
            text += f' The file was refused and is not there: {report["refused"]}.'
        elif weights and metadata:
            same = metadata['source']['sha256'] == weights
            text += f' It holds {"the" if same else "other weights than the"} deployed weights above.'
        proofs.append({'heading': path, 'text': text, 'head': ['', 'measured', 'tolerated'], 'rows': rows})
    return proofs


def _versions(versions: Mapping[str, Mapping[str, str]]) -> list[list[str]]:
    """Return a table: a row a package, a column for what it made."""
    packages = dict.fromkeys(name for found in versions.values() for name in found)
    return [
        ['package', *versions],
        *([package, *(found.get(package, '–') for found in versions.values())] for package in packages),
    ]
