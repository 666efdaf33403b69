"""What is wrong with a data set: samples are added one by one, and counted rather than kept."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np

from .samples import Reading, Sample

EXAMPLES = 5

Severity = Literal['error', 'warning']


@dataclass(frozen=True)
class Labels:
    """Which classes a network is to learn, and how the numbers in a mask become them."""

    classes: tuple[str, ...]
    ignore_index: int = 255
    reduce_zero_label: bool = False
    label_map: Mapping[int, int] = field(default_factory=dict)
    palette: Sequence[Sequence[int]] = ()

    @cached_property
    def trained(self) -> np.ndarray:
        """(256,) uint8: the label that the network gets for each number in a mask, as mmseg's loader makes it."""
        table = np.arange(256, dtype=np.uint8)
        if self.reduce_zero_label:  # 0 is ignored, 1 becomes 0, and 255 stays
            table = np.where((table == 0) | (table == 255), 255, table - 1).astype(np.uint8)
        mapped = table.copy()
        for old, new in self.label_map.items():
            mapped[table == old] = new
        return mapped

    @cached_property
    def outside(self) -> np.ndarray:
        """(256,) bool: the numbers that are neither a class nor ignored."""
        return (self.trained >= len(self.classes)) & ~self.ignored

    @cached_property
    def ignored(self) -> np.ndarray:
        """(256,) bool: the numbers that are not learned from."""
        return self.trained == self.ignore_index


@dataclass(frozen=True)
class Finding:
    """One fault of a data set: what it is, where, and what cures it."""

    severity: Severity
    check: str
    split: str
    what: str
    cure: str
    count: int = 1
    examples: tuple[str, ...] = ()

    def __str__(self) -> str:
        """Return it as one sentence."""
        examples = ', '.join(self.examples[:3]) + (', …' if self.count > 3 else '')
        return f'{self.split}: {self.what}{f" ({examples})" if examples else ""}: {self.cure}'


# What can be wrong with one sample: severity, what it is (with its count) and the cure.
_TURN = (
    'write the turned pixels into the files (mogrify -auto-orient) or, if the masks fit the stored pixels, load images '
    "with dict(type='LoadImageFromFile', color_type='color_ignore_orientation')"
)
SAMPLE_CHECKS: dict[str, tuple[Severity, str, str]] = {
    'missing_mask': ('error', 'images without a mask: {}', 'add the masks, or move these images away'),
    'unreadable_image': ('error', 'images that cannot be read: {}', 'copy them again, or remove them and their masks'),
    'unreadable_mask': ('error', 'masks that cannot be read: {}', 'copy them again, or remove them and their images'),
    'size': (
        'error',
        'masks of another size than their image: {}',
        'make both of the same size (masks by nearest neighbour, which keeps labels whole)',
    ),
    'turned': ('error', 'images that are turned on loading, by their EXIF orientation, and no longer fit: {}', _TURN),
    'maybe_turned': (
        'warning',
        'images that are turned on loading by their EXIF orientation, as masks are not: {}',
        _TURN,
    ),
    'colour_mask': (
        'error',
        'masks of colours instead of class indices: {}',
        'make them masks of class indices with tools/convert_masks.py',
    ),
    'grey_mask': ('error', 'masks with several equal channels: {}', 'save one channel'),
    'alpha_mask': ('error', 'masks with a transparency channel: {}', 'save the labels alone, one channel of 8 bits'),
    'expanded_palette': (
        'error',
        'palette masks, whose labels this config expands to colours: {}',
        "leave imdecode_backend='cv2' out of LoadAnnotations: Pillow reads the indices",
    ),
    'lossy_mask': (
        'error',
        'masks in a lossy format, which invents labels along edges: {}',
        'make them again from the annotation, as PNG',
    ),
    'packed_mask': (
        'error',
        'masks of 2 or 4 bits a pixel, whose labels are scaled to 0–255 on loading: {}',
        'save them with 8 bits a pixel',
    ),
    'wide_mask': ('error', 'masks with labels above 255, which wrap around: {}', 'use labels of 0–254, 8 bits a pixel'),
    'deep_mask': ('warning', 'masks of more than 8 bits a pixel: {}', 'save them with 8 bits a pixel'),
    'only_ignored': (
        'warning',
        'masks that are ignored altogether, from which nothing is learned: {}',
        'remove them and their images, or see whether their labels are right',
    ),
    'not_rgb': (
        'warning',
        'images that are not 8-bit RGB and are made so on loading (alpha is dropped, 16 bits become 8): {}',
        'save them as 8-bit RGB if that loses what matters',
    ),
}


def sample_faults(sample: Sample, reading: Reading, labels: Labels) -> Iterator[tuple[str, str]]:
    """Yield (name in SAMPLE_CHECKS, file and detail) for what is wrong with one sample alone."""
    if sample.image_fault:
        yield 'unreadable_image', f'{sample.image}: {sample.image_fault}'
    elif sample.image_mode != 'RGB':
        yield 'not_rgb', f'{sample.image} ({sample.image_mode})'
    if sample.mask_missing:
        yield 'missing_mask', f'{sample.image} has no {sample.mask}'
        return
    if sample.mask_fault:
        yield 'unreadable_mask', f'{sample.mask}: {sample.mask_fault}'
        return
    if not sample.image_fault:
        yield from _geometry(sample, reading)
    if sample.mask_mode == 'P' and reading.expands_palettes:
        yield 'expanded_palette', sample.mask
    elif sample.channels in (2, 4):
        yield 'alpha_mask', f'{sample.mask} ({sample.mask_mode})'
    elif sample.channels > 1:
        yield 'grey_mask' if sample.grey else 'colour_mask', f'{sample.mask} ({sample.mask_mode})'
    elif sample.mask_format in ('JPEG', 'MPO'):
        yield 'lossy_mask', f'{sample.mask} ({sample.mask_format})'
    elif sample.mask_mode in ('L;2', 'L;4'):
        yield 'packed_mask', sample.mask
    elif sample.largest > 255:
        yield 'wide_mask', f'{sample.mask} (up to {sample.largest})'
    else:
        if sample.mask_mode not in ('L', 'P', '1'):
            yield 'deep_mask', f'{sample.mask} ({sample.mask_mode})'
        if all(labels.ignored[label] for label, _ in sample.counts):
            yield 'only_ignored', sample.mask


def _geometry(sample: Sample, reading: Reading) -> Iterator[tuple[str, str]]:
    width, height = sample.loaded_size if reading.turns_images else sample.image_size
    mask_width, mask_height = sample.mask_size
    detail = f'{sample.mask}: {mask_width}x{mask_height}, image {width}x{height}'
    turned = reading.turns_images and sample.orientation in range(2, 9)
    if sample.mask_size != (width, height):
        yield ('turned' if turned and sample.mask_size == sample.image_size else 'size'), detail
    elif turned and sample.loaded_size == sample.image_size:  # nothing tells whether the mask was turned as well
        yield 'maybe_turned', f'{sample.image} (orientation {sample.orientation})'


class Tally:
    """Counts what the samples of one split hold."""

    def __init__(self, split: str, labels: Labels, reading: Reading) -> None:
        self.split, self.labels, self.reading = split, labels, reading
        self.samples = 0
        self.sizes: Counter[tuple[int, int]] = Counter()
        self.pixels = np.zeros(256, np.int64)  # of each number in the masks
        self.images = np.zeros(256, np.int64)  # that show it
        self.digests: dict[bytes, tuple[str, bytes]] = {}  # of an image -> the first such file, and its mask's
        self._counts: Counter[str] = Counter()
        self._examples: defaultdict[str, list[str]] = defaultdict(list)
        self._first_with: dict[int, str] = {}  # number outside the classes -> a mask that holds it
        self._outside = 0
        self._palette: dict[int, tuple[int, int, int]] = {}

    def add(self, sample: Sample) -> None:
        """Count one sample in."""
        self.samples += 1
        sound = True
        for check, example in sample_faults(sample, self.reading, self.labels):
            self._count(check, example)
            sound &= not check.endswith('_mask') or SAMPLE_CHECKS[check][0] == 'warning'
        if not sample.image_fault:
            self.sizes[sample.image_size] += 1
        outside = False
        if sound:  # else its labels say nothing of the data set
            for label, count in sample.counts:
                self.pixels[label] += count
                self.images[label] += 1
                if self.labels.outside[label]:
                    outside = True
                    self._first_with.setdefault(label, sample.mask)
        self._outside += outside
        if any(self._palette.setdefault(label, colour) != colour for label, colour in sample.palette):
            self._count('palettes', sample.mask)
        if sample.image_digest:
            first, mask_digest = self.digests.setdefault(sample.image_digest, (sample.image, sample.mask_digest))
            if first != sample.image:
                differs = ' with another mask' if mask_digest != sample.mask_digest else ''
                self._count('contradiction' if differs else 'duplicate', f'{sample.image} = {first}{differs}')

    def _count(self, check: str, example: str) -> None:
        self._counts[check] += 1
        if len(self._examples[check]) < EXAMPLES:
            self._examples[check].append(example)

    def _found(
        self, severity: Severity, check: str, what: str, cure: str, *, count: int = 0, examples: Sequence[str] = ()
    ) -> Finding:
        """Return a finding of this split, by default with the count and the examples counted in for `check`."""
        count = count or self._counts[check] or 1
        return Finding(
            severity, check, self.split, what.replace('{}', str(count)), cure, count,
            tuple(examples[:EXAMPLES] or self._examples[check]),
        )  # fmt: skip

    def class_table(self) -> list[dict[str, Any]]:
        """Return each class' name, number of pixels, share of the pixels that count, and number of images."""
        # An image can show several numbers of one class: with a label map its count is an upper bound.
        of_class = [self.labels.trained == index for index in range(len(self.labels.classes))]
        pixels, images = ([int(of[numbers].sum()) for numbers in of_class] for of in (self.pixels, self.images))
        total = max(sum(pixels), 1)
        return [
            {'name': name, 'pixels': n, 'share': n / total, 'images': m}
            for name, n, m in zip(self.labels.classes, pixels, images, strict=True)
        ]

    def findings(self, *, whole: bool = True) -> Iterator[Finding]:
        """Yield what was found; what only the whole data set can tell is left out unless `whole`."""
        for check, (severity, what, cure) in SAMPLE_CHECKS.items():
            if count := self._counts[check]:
                everything = check == 'only_ignored' and count == self.samples
                yield self._found('error' if everything else severity, check, what, cure)
        if not self._counts['palettes']:
            yield from self._label_findings(whole)
        else:  # in which labels have no meaning
            yield self._found(
                'error', 'palettes',
                'palette masks in which a label has another colour than in the masks before: {}',
                'convert them by their colours: each file numbers its colours in an order of its own',
            )  # fmt: skip
        if self._counts['contradiction']:
            yield self._found(
                'error', 'contradiction', 'images that are there twice with different masks: {}',
                'keep the one whose mask is right',
            )  # fmt: skip
        if self._counts['duplicate']:
            yield self._found('warning', 'duplicate', 'images that are there twice: {}', 'remove the copies')

    def _label_findings(self, whole: bool) -> Iterator[Finding]:
        labels, n = self.labels, len(self.labels.classes)
        present = np.flatnonzero(self.images).tolist()
        outside = sorted(self._first_with)
        share = self.pixels / max(self.pixels.sum(), 1)
        if n == 2 and present == [0, 255] and not labels.reduce_zero_label and labels.ignored[255]:
            yield self._found(
                'error', 'binary_255',
                'masks hold only 0 and 255, and 255 is ignored: the second class is never learned',
                'write 1 instead of 255 into the masks, or let tools/convert_masks.py do it',
            )  # fmt: skip
            return
        if outside:
            yield self._outside_finding(present, outside)
            return
        if not whole or not present:
            return
        rows = self.class_table()
        never = [row['name'] for row in rows if not row['pixels']]
        learned = [row['name'] for row in rows if row['pixels']]
        if n > 1 and len(learned) == 1:
            yield self._found(
                'error', 'one_class', f'of {n} classes only {learned[0]} occurs: there is nothing to tell apart',
                'see whether the masks are right, and which numbers they hold (--json lists them)',
            )  # fmt: skip
        elif labels.reduce_zero_label and self.images[0] and max(v for v in present if v < 255) == n - 1:
            yield self._found(
                'warning', 'zero_label',
                f'reduce_zero_label=True ignores label 0 ({share[0]:.1%} of the pixels) and the last class, '
                f'{labels.classes[-1]}, never occurs: the masks seem to number their classes from 0',
                'leave reduce_zero_label out, unless 0 does mean background',
            )  # fmt: skip
        elif not labels.reduce_zero_label and not labels.label_map and never == [labels.classes[0]]:
            yield self._found(
                'warning', 'zero_label',
                f'label 0 ({labels.classes[0]}) never occurs and all others do: the masks seem to number their '
                'classes from 1',
                'set reduce_zero_label=True in the data set, or subtract 1 in the masks',
            )  # fmt: skip
        elif never and learned:
            yield self._found(
                'warning', 'absent_class', f'classes that never occur: {{}} of {n}',
                'add images that show them, or leave these classes out', count=len(never), examples=never,
            )  # fmt: skip
        swapped = [
            f'{labels.classes[c]} has the colour of {labels.classes[other]}'
            for label, colour in sorted(self._palette.items())
            if (c := int(labels.trained[label])) < n
            and len(labels.palette) == n
            and tuple(labels.palette[c]) != colour
            and (other := _index(labels.palette, colour)) >= 0
        ]
        if swapped:
            yield self._found(
                'warning', 'palette_order', 'classes to which palette masks give the colour of another: {}',
                'see whether the masks number the classes in the order of the data set',
                count=len(swapped), examples=swapped,
            )  # fmt: skip

    def _outside_finding(self, present: Sequence[int], outside: Sequence[int]) -> Finding:
        labels, n = self.labels, len(self.labels.classes)
        first = 1 if labels.reduce_zero_label else 0
        cure = f'the masks may hold {first}–{n - 1 + first}, and {labels.ignore_index} for what is ignored'
        if outside == [n] and not labels.reduce_zero_label and not labels.label_map:
            cure = (
                f'the masks hold one number more than there are classes: if 0 is background that is not to be learned, '
                f'set reduce_zero_label=True in the data set; if it is a class, name it among the classes; {cure}'
            )
        elif {'road', 'rider', 'train'} <= set(labels.classes) and max(outside) <= 33:
            cure = (
                "these look like Cityscapes' labelIds, not labelTrainIds: make those with "
                '"python tools/make_train_ids.py DATA_ROOT" and set seg_map_suffix=\'_gtFine_labelTrainIds.png\''
            )
        elif outside == [255]:
            cure = f'255 is not ignored here: set ignore_index=255 in place of {labels.ignore_index}; {cure}'
        elif self._palette:
            cure = f'a palette PNG is read as the indices of its palette, which here are not the classes; {cure}'
        shown = ', '.join(map(str, outside[:8])) + (', …' if len(outside) > 8 else '')
        return self._found(
            'error', 'outside', f'masks with labels outside the {n} classes ({shown}): {{}}', cure,
            count=self._outside, examples=[f'{self._first_with[v]} ({v})' for v in outside],
        )  # fmt: skip


def _index(palette: Sequence[Sequence[int]], colour: Sequence[int]) -> int:
    return next((i for i, c in enumerate(palette) if tuple(c) == tuple(colour)), -1)


def leaks(train: Tally, other: Tally) -> Iterator[Finding]:
    """Yield the finding that images of a validation split are trained on, if any are."""
    shared = train.digests.keys() & other.digests.keys()
    if shared:
        examples = sorted(f'{other.digests[d][0]} = {train.digests[d][0]}' for d in shared)
        yield Finding(
            'error', 'leak', other.split,
            f'images with the very pixels of one in {train.split}: {len(shared)}',
            f'remove them from one of the two: results on {other.split} would be too good', len(shared),
            tuple(examples[:EXAMPLES]),
        )  # fmt: skip


def strays(split: str, check: str, what: str, cure: str, files: Collection[str]) -> Iterator[Finding]:
    """Yield the finding that there are files which nothing reads, if there are any."""
    if files:
        yield Finding(
            'warning', check, split, what.format(len(files)), cure, len(files), tuple(sorted(files)[:EXAMPLES])
        )
