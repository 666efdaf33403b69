"""Looking at the files of a data set: all of them, or some before a training."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from functools import partial
from itertools import product
from pathlib import Path

from ..files import atomic_write
from ..parallel import parallel_map
from . import pictures
from .checks import Finding, faults
from .report import Report
from .samples import Sample, examine
from .splits import Split, spread
from .tally import Tally

QUICK_SAMPLES = 16  # of each split, looked at before a training


def inspect(splits: Sequence[Split], *, workers: int | None = None) -> Report:
    """Look at every image and mask and return what was found."""
    tallies = [Tally(split) for split in splits]
    findings: list[Finding] = []
    for tally in tallies:
        look = partial(examine, reading=tally.split.reading)
        description = f'Looking at {tally.split.name}'
        for sample in parallel_map(look, tally.split.pairs, workers=workers, description=description):
            tally.add(sample)
        findings += tally.findings()
    for train, other in product(tallies, tallies):
        if train.split.is_training and not other.split.is_training:
            findings += faults('pair', train, other, split=other.split.name)
    return Report(tallies, findings)


def quick_errors(splits: Iterable[Split]) -> list[Finding]:
    """Return what cannot train: looks at the list of all files and at some samples, those of training without pixels.

    A training skips what it cannot read, and says so; a validation cannot.
    """
    errors: list[Finding] = []
    for split in splits:
        tally = Tally(split)
        missing = [pair for pair in split.pairs if not os.path.exists(pair[1])]
        for image, mask in missing or spread(split.pairs, QUICK_SAMPLES):
            tally.add(
                Sample(image, mask, image_mode='RGB', mask_missing=True)
                if missing
                else examine((image, mask), reading=split.reading, pixels=not split.is_training)
            )
        skipped = ('unreadable_image', 'unreadable_mask') if split.is_training else ()
        found = tally.findings(whole=False)
        errors += [finding for finding in found if finding.severity == 'error' and finding.check not in skipped]
    return errors


def write_pictures(folder: Path, report: Report) -> None:
    """Write a chart of the classes, and a contact sheet of each split that has samples to show."""
    tables = {tally.split.name: tally.class_table() for tally in report.tallies}
    splits = [tally.split for tally in report.tallies]
    chart = pictures.frequency_chart(tables, splits[0].labels.palette)
    sheets = [(split.name, pictures.sheet_of(split)) for split in splits]
    for name, content in (('class_frequencies', chart), *sheets):
        if content:
            with atomic_write(folder / f'{name}.png') as file:
                file.write(content)
