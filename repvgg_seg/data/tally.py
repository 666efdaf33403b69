"""What the samples of a split hold: they are added one by one, and counted rather than kept."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import Any

import numpy as np

from .checks import CHECKS, EXAMPLES, Fault, Finding, faults
from .samples import Sample
from .splits import Split

CLASS_WEIGHTS = ('inverse-sqrt', 'median-frequency')


class Tally:
    """Counts what the samples of one split hold, and which checks they fail."""

    def __init__(self, split: Split) -> None:
        self.split = split
        self.samples = 0
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.pixels = np.zeros(256, np.int64)  # of each number in the masks
        self.images = np.zeros(256, np.int64)  # that show it
        self.area = np.zeros(256, np.int64)  # the labelled pixels of those images
        self.digests: dict[bytes, tuple[str, bytes]] = {}  # of an image -> the first such file, and its mask's
        self.outside = 0  # masks with labels outside the classes
        self.first_outside: dict[int, str] = {}  # such a label -> the first mask that holds it
        self.palette: dict[int, tuple[int, int, int]] = {}  # label -> its colour in the first palette mask
        self.other_palettes: list[str] = []  # masks that give a label another colour than those before
        self.copies: list[str] = []
        self.contradictions: list[str] = []  # copies with another mask
        self._counts: Counter[str] = Counter()
        self._examples: defaultdict[str, list[str]] = defaultdict(list)

    def add(self, sample: Sample) -> None:
        """Count one sample in."""
        self.samples += 1
        if not sample.image_fault:
            self.sizes[sample.image_size] += 1
        if self._is_sound(sample):
            classes = range(len(self.split.labels.classes))
            labelled = sum(count for label, count in sample.counts if self.split.labels.trained[label] in classes)
            for label, count in sample.counts:
                self.pixels[label] += count
                self.images[label] += 1
                self.area[label] += labelled
            outside = [label for label, _ in sample.counts if self.split.labels.outside[label]]
            self.outside += bool(outside)
            for label in outside:
                self.first_outside.setdefault(label, sample.mask)
        if any(self.palette.setdefault(label, colour) != colour for label, colour in sample.palette):
            self.other_palettes.append(sample.mask)
        if sample.image_digest:
            first, mask_digest = self.digests.setdefault(sample.image_digest, (sample.image, sample.mask_digest))
            if first != sample.image and mask_digest != sample.mask_digest:
                self.contradictions.append(f'{sample.image} = {first} with another mask')
            elif first != sample.image:
                self.copies.append(f'{sample.image} = {first}')

    def _is_sound(self, sample: Sample) -> bool:
        """Run the checks of a sample, and return whether its labels can be counted."""
        for check in CHECKS['sample']:
            if example := check.look(sample, self.split):
                self._counts[check.name] += 1
                if len(self._examples[check.name]) < EXAMPLES:
                    self._examples[check.name].append(example)
                if check.ends:
                    return False
        return True

    @property
    def present(self) -> list[int]:
        """The numbers that the masks hold."""
        return np.flatnonzero(self.images).tolist()

    def class_table(self) -> list[dict[str, Any]]:
        """Return each class' name, number of pixels, share of the pixels that count, and number of images."""
        # An image can show several numbers of one class: with a label map its count is an upper bound.
        labels = self.split.labels
        of_class = [labels.trained == index for index in range(len(labels.classes))]
        pixels, images = ([int(of[numbers].sum()) for numbers in of_class] for of in (self.pixels, self.images))
        total = max(sum(pixels), 1)
        return [
            {'name': name, 'pixels': n, 'share': n / total, 'images': m}
            for name, n, m in zip(labels.classes, pixels, images, strict=True)
        ]

    def class_weights(self, method: str) -> list[float]:
        """Return a weight for the loss of each class, by one of CLASS_WEIGHTS; 1 for a class that never occurs.

        'inverse-sqrt' is one over the square root of the class' share of the pixels, scaled so that the mean over all
        pixels is 1: the loss keeps its size. 'median-frequency' is the median of the classes' frequencies over the
        class' own, which is counted in the images that show the class only.

        Source: Eigen and Fergus, "Predicting depth, surface normals and semantic labels", ICCV 2015 (the second).

        Raises:
            ValueError: no pixel has a class.
        """
        trained = self.split.labels.trained
        of_class = [trained == index for index in range(len(self.split.labels.classes))]
        pixels, area = (np.array([of[numbers].sum() for numbers in of_class], float) for of in (self.pixels, self.area))
        occurs = pixels > 0
        if not occurs.any():
            raise ValueError(f'no pixel of {self.split.name} has a class, so there are no weights')
        weights = np.ones(len(pixels))
        if method == 'inverse-sqrt':
            share = pixels[occurs] / pixels.sum()
            weights[occurs] = share**-0.5 / np.sqrt(share).sum()
        else:
            frequency = pixels[occurs] / area[occurs]
            weights[occurs] = np.median(frequency) / frequency
        return [float(f'{weight:.3g}') for weight in weights]

    def learned_and_never(self) -> tuple[list[str], list[str]]:
        """Return the names of the classes that occur, and of those that never do."""
        rows = self.class_table()
        return [row['name'] for row in rows if row['pixels']], [row['name'] for row in rows if not row['pixels']]

    def findings(self, *, whole: bool = True) -> Iterator[Finding]:
        """Yield what was found; what only the whole data set can tell is left out unless `whole`."""
        yield from faults('split', self.split, split=self.split.name, whole=whole)
        for check in CHECKS['sample']:
            if count := self._counts[check.name]:
                fault = Fault(count, self._examples[check.name])
                yield check.finding(self.split.name, fault, everywhere=count == self.samples)
        yield from faults('tally', self, split=self.split.name, whole=whole)
