"""All that can be wrong with a data set: each check is one function here, with its name, severity, sentence and cure.

A check is about a `Split` before its files are read, one `Sample`, the `Tally` of all samples of a split, or two of
these. Checks run in the order of this file. What has an end (`ends=True`) leaves nothing to judge for those after it.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ..files import walk
from .masks import IMAGE_SUFFIXES
from .samples import Sample
from .splits import Split

if TYPE_CHECKING:
    from .tally import Tally

EXAMPLES = 5

Severity = Literal['error', 'warning']
About = Literal['split', 'sample', 'tally', 'pair']


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


@dataclass(frozen=True)
class Fault:
    """What a check found: how often, where, and the values that its sentence and cure name in braces."""

    count: int = 1
    examples: Sequence[str] = ()
    values: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Check:
    """One way in which a data set can be wrong."""

    look: Callable[..., Any]  # of a sample: returns an example of the fault or '', of the others: yields each Fault
    right: str  # what holds where nothing is found: one of RIGHT
    severity: Severity
    what: str
    cure: str
    ends: bool  # the checks after it cannot judge what has this fault
    whole: bool  # only all samples together can tell
    all_is_error: bool  # a warning that is an error where every sample has the fault

    @property
    def name(self) -> str:
        """What the report calls it."""
        return self.look.__name__

    def finding(self, split: str, fault: Fault, *, everywhere: bool = False) -> Finding:
        """Return the fault as a finding."""
        values = {'count': fault.count, **fault.values}
        severity = 'error' if everywhere and self.all_is_error else self.severity
        what, cure = self.what.format(**values), self.cure.format(**values)
        return Finding(severity, self.name, split, what, cure, fault.count, tuple(fault.examples[:EXAMPLES]))


CHECKS: defaultdict[About, list[Check]] = defaultdict(list)


def check(
    about: About,
    right: str,
    severity: Severity,
    what: str,
    cure: str,
    *,
    ends: bool = False,
    whole: bool = False,
    all_is_error: bool = False,
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Register a function as a check."""

    def register(look: Callable[..., Any]) -> Callable[..., Any]:
        CHECKS[about].append(Check(look, right, severity, what, cure, ends, whole, all_is_error))
        return look

    return register


# The lines of the report where nothing is wrong, in its order.
PAIRS = 'every image has its mask, every mask its image'
READABLE = 'all files can be read'
FIT = 'images and masks fit each other'
INDICES = 'masks hold class indices, 8 bits a pixel'
LABELS = 'labels are those of the classes'
CLASSES = 'every class occurs, and has its output'
ONCE = 'no image is there twice'
APART = 'no validation image is trained on'
RIGHT = (PAIRS, READABLE, FIT, INDICES, LABELS, CLASSES, ONCE, APART)


def faults(about: About, *subjects: Any, split: str, whole: bool = True) -> Iterator[Finding]:
    """Yield what the checks of a split, a tally or a pair find; those of the whole data set only if `whole`."""
    for one in CHECKS[about]:
        if one.whole and not whole:
            continue
        found = list(one.look(*subjects))
        yield from (one.finding(split, fault) for fault in found)
        if found and one.ends:
            return


# ---- a split, before its files are read


@check(
    'split', CLASSES, 'error',
    'the data set names {n} classes, and {head} has outputs for {outputs}',
    'set model.{head}.num_classes={n}, or name the classes to learn: metainfo=dict(classes=(...))',
)  # fmt: skip
def more_classes(split: Split) -> Iterator[Fault]:
    yield from _outputs(split, lambda n, outputs: n > outputs)


@check(
    'split', CLASSES, 'warning',
    'the data set names {n} classes, and {head} has outputs for {outputs}',
    'set model.{head}.num_classes={n}, unless the others are to stay unused',
)  # fmt: skip
def fewer_classes(split: Split) -> Iterator[Fault]:
    yield from _outputs(split, lambda n, outputs: n < outputs)


def _outputs(split: Split, wrong: Callable[[int, int], bool]) -> Iterator[Fault]:
    n = len(split.labels.classes)
    for head, outputs in split.outputs.items():
        if wrong(n, outputs):
            yield Fault(values={'n': n, 'head': head, 'outputs': outputs})


@check(
    'split', PAIRS, 'warning',
    'masks without an image: {count}', 'add the images, or remove these masks', whole=True,
)  # fmt: skip
def extra_mask(split: Split) -> Iterator[Fault]:
    if split.folders:
        yield from _unread(split, split.folders.masks, split.folders.mask_suffixes)


@check(
    'split', PAIRS, 'warning',
    'images other than {used}, not used: {count}', 'rename or convert them, or set img_suffix', whole=True,
)  # fmt: skip
def unused_image(split: Split) -> Iterator[Fault]:
    if split.folders is None:
        return
    images, masks = Path(split.folders.images), Path(split.folders.masks)
    if images not in (masks, *masks.parents):  # masks of other kinds lie there as well
        used = ' or '.join(f'*{suffix}' for suffix in split.folders.image_suffixes)
        yield from _unread(split, split.folders.images, IMAGE_SUFFIXES, used=used)


def _unread(split: Split, folder: str, suffixes: Iterable[str], **values: str) -> Iterator[Fault]:
    """Yield the files of a folder that are in no sample."""
    known = {os.path.normpath(path) for pair in split.pairs for path in pair}
    if files := sorted(str(path) for path in walk(folder, tuple(suffixes)) if str(path) not in known):
        yield Fault(len(files), files, values)


# ---- one sample


@check(
    'sample', READABLE, 'error',
    'images that cannot be read: {count}', 'copy them again, or remove them and their masks',
)  # fmt: skip
def unreadable_image(sample: Sample, split: Split) -> str:
    return sample.image_fault and f'{sample.image}: {sample.image_fault}'


@check(
    'sample', FIT, 'warning',
    'images that are not 8-bit RGB and are made so on loading (alpha is dropped, 16 bits become 8): {count}',
    'save them as 8-bit RGB if that loses what matters',
)  # fmt: skip
def not_rgb(sample: Sample, split: Split) -> str:
    return '' if sample.image_fault or sample.image_mode == 'RGB' else f'{sample.image} ({sample.image_mode})'


@check(
    'sample', PAIRS, 'error', 'images without a mask: {count}', 'add the masks, or move these images away', ends=True
)  # fmt: skip
def missing_mask(sample: Sample, split: Split) -> str:
    return f'{sample.image} has no {sample.mask}' if sample.mask_missing else ''


@check(
    'sample', READABLE, 'error',
    'masks that cannot be read: {count}', 'copy them again, or remove them and their images', ends=True,
)  # fmt: skip
def unreadable_mask(sample: Sample, split: Split) -> str:
    return sample.mask_fault and f'{sample.mask}: {sample.mask_fault}'


TURN = (
    'write the turned pixels into the files (mogrify -auto-orient) or, if the masks fit the stored pixels, load images '
    "with dict(type='LoadImageFromFile', color_type='color_ignore_orientation')"
)


def _turned(sample: Sample, split: Split) -> bool:
    return split.reading.turns_images and sample.orientation in range(2, 9)


def _sizes(sample: Sample, split: Split) -> str:
    """Return the sizes of a mask and its image, if they are not the same and both can be read."""
    width, height = sample.loaded_size if split.reading.turns_images else sample.image_size
    if sample.image_fault or sample.mask_size == (width, height):
        return ''
    return f'{sample.mask}: {sample.mask_size[0]}x{sample.mask_size[1]}, image {width}x{height}'


@check(
    'sample', FIT, 'error', 'masks of another size than their image: {count}',
    'make both of the same size (masks by nearest neighbour, which keeps labels whole)',
)  # fmt: skip
def size(sample: Sample, split: Split) -> str:
    return '' if turned(sample, split) else _sizes(sample, split)


@check(
    'sample', FIT, 'error',
    'images that are turned on loading, by their EXIF orientation, and no longer fit: {count}', TURN,
)  # fmt: skip
def turned(sample: Sample, split: Split) -> str:
    stored = _turned(sample, split) and sample.mask_size == sample.image_size
    return _sizes(sample, split) if stored else ''


@check(
    'sample', FIT, 'warning',
    'images that are turned on loading by their EXIF orientation, as masks are not: {count}', TURN,
)  # fmt: skip
def maybe_turned(sample: Sample, split: Split) -> str:
    # It cannot be seen whether the mask was turned as well.
    same = sample.mask_size == sample.loaded_size == sample.image_size
    unclear = same and _turned(sample, split) and not sample.image_fault
    return f'{sample.image} (orientation {sample.orientation})' if unclear else ''


@check(
    'sample', INDICES, 'error', 'palette masks, whose labels this config expands to colours: {count}',
    "leave imdecode_backend='cv2' out of LoadAnnotations: Pillow reads the indices", ends=True,
)  # fmt: skip
def expanded_palette(sample: Sample, split: Split) -> str:
    return sample.mask if sample.mask_mode == 'P' and split.reading.expands_palettes else ''


@check(
    'sample', INDICES, 'error', 'masks with a transparency channel: {count}',
    'save the labels alone, one channel of 8 bits', ends=True,
)  # fmt: skip
def alpha_mask(sample: Sample, split: Split) -> str:
    return f'{sample.mask} ({sample.mask_mode})' if sample.channels in (2, 4) else ''


@check('sample', INDICES, 'error', 'masks with several equal channels: {count}', 'save one channel', ends=True)
def grey_mask(sample: Sample, split: Split) -> str:
    return f'{sample.mask} ({sample.mask_mode})' if sample.channels > 1 and sample.grey else ''


@check(
    'sample', INDICES, 'error', 'masks of colours instead of class indices: {count}',
    'make them masks of class indices with tools/convert_masks.py', ends=True,
)  # fmt: skip
def colour_mask(sample: Sample, split: Split) -> str:
    return f'{sample.mask} ({sample.mask_mode})' if sample.channels > 1 else ''


@check(
    'sample', INDICES, 'error', 'masks in a lossy format, which invents labels along edges: {count}',
    'make them again from the annotation, as PNG', ends=True,
)  # fmt: skip
def lossy_mask(sample: Sample, split: Split) -> str:
    return f'{sample.mask} ({sample.mask_format})' if sample.mask_format in ('JPEG', 'MPO') else ''


@check(
    'sample', INDICES, 'error',
    'masks of 2 or 4 bits a pixel, whose labels are scaled to 0–255 on loading: {count}',
    'save them with 8 bits a pixel', ends=True,
)  # fmt: skip
def packed_mask(sample: Sample, split: Split) -> str:
    return sample.mask if sample.mask_mode in ('L;2', 'L;4') else ''


@check(
    'sample', INDICES, 'error', 'masks with labels above 255, which wrap around: {count}',
    'use labels of 0–254, 8 bits a pixel', ends=True,
)  # fmt: skip
def wide_mask(sample: Sample, split: Split) -> str:
    return f'{sample.mask} (up to {sample.largest})' if sample.largest > 255 else ''


@check(
    'sample', INDICES, 'warning', 'masks of more than 8 bits a pixel: {count}', 'save them with 8 bits a pixel'
)  # fmt: skip
def deep_mask(sample: Sample, split: Split) -> str:
    return '' if sample.mask_mode in ('L', 'P', '1') else f'{sample.mask} ({sample.mask_mode})'


@check(
    'sample', LABELS, 'warning', 'masks that are ignored altogether, from which nothing is learned: {count}',
    'remove them and their images, or see whether their labels are right', all_is_error=True,
)  # fmt: skip
def only_ignored(sample: Sample, split: Split) -> str:
    return sample.mask if all(split.labels.ignored[label] for label, _ in sample.counts) else ''


# ---- all samples of a split


@check(
    'tally', ONCE, 'error', 'images that are there twice with different masks: {count}',
    'keep the one whose mask is right',
)  # fmt: skip
def contradiction(tally: Tally) -> Iterator[Fault]:
    if tally.contradictions:
        yield Fault(len(tally.contradictions), tally.contradictions)


@check('tally', ONCE, 'warning', 'images that are there twice: {count}', 'remove the copies')
def duplicate(tally: Tally) -> Iterator[Fault]:
    if tally.copies:
        yield Fault(len(tally.copies), tally.copies)


@check(
    'tally', INDICES, 'error',
    'palette masks in which a label has another colour than in the masks before: {count}',
    'convert them by their colours: each file numbers its colours in an order of its own', ends=True,
)  # fmt: skip
def palettes(tally: Tally) -> Iterator[Fault]:
    if tally.other_palettes:
        yield Fault(len(tally.other_palettes), tally.other_palettes)


@check(
    'tally', LABELS, 'error', 'masks hold only 0 and 255, and 255 is ignored: the second class is never learned',
    'write 1 instead of 255 into the masks, or let tools/convert_masks.py do it', ends=True,
)  # fmt: skip
def binary_255(tally: Tally) -> Iterator[Fault]:
    labels = tally.split.labels
    two = len(labels.classes) == 2 and not labels.reduce_zero_label and labels.ignored[255]
    if two and tally.present == [0, 255]:
        yield Fault()


@check(
    'tally', LABELS, 'error', 'masks with labels outside the {n} classes ({shown}): {count}', '{cure}', ends=True
)  # fmt: skip
def outside(tally: Tally) -> Iterator[Fault]:
    labels, n, numbers = tally.split.labels, len(tally.split.labels.classes), sorted(tally.first_outside)
    if not numbers:
        return
    first = 1 if labels.reduce_zero_label else 0
    cure = f'the masks may hold {first}–{n - 1 + first}, and {labels.ignore_index} for what is ignored'
    if numbers == [n] and not labels.reduce_zero_label and not labels.label_map:
        cure = (
            f'the masks hold one number more than there are classes: if 0 is background that is not to be learned, '
            f'set reduce_zero_label=True in the data set; if it is a class, name it among the classes; {cure}'
        )
    elif {'road', 'rider', 'train'} <= set(labels.classes) and max(numbers) <= 33:
        cure = (
            "these look like Cityscapes' labelIds, not labelTrainIds: make those with "
            '"python tools/make_train_ids.py DATA_ROOT" and set seg_map_suffix=\'_gtFine_labelTrainIds.png\''
        )
    elif numbers == [255]:
        cure = f'255 is not ignored here: set ignore_index=255 in place of {labels.ignore_index}; {cure}'
    elif tally.palette:
        cure = f'a palette PNG is read as the indices of its palette, which here are not the classes; {cure}'
    shown = ', '.join(map(str, numbers[:8])) + (', …' if len(numbers) > 8 else '')
    examples = [f'{tally.first_outside[number]} ({number})' for number in numbers]
    yield Fault(tally.outside, examples, {'n': n, 'shown': shown, 'cure': cure})


@check(
    'tally', INDICES, 'warning', 'classes to which palette masks give the colour of another: {count}',
    'see whether the masks number the classes in the order of the data set', whole=True,
)  # fmt: skip
def palette_order(tally: Tally) -> Iterator[Fault]:
    labels, n = tally.split.labels, len(tally.split.labels.classes)
    colours = [tuple(colour) for colour in labels.palette]
    if len(colours) != n:
        return
    swapped = [
        f'{labels.classes[index]} has the colour of {labels.classes[colours.index(colour)]}'
        for label, colour in sorted(tally.palette.items())
        if (index := int(labels.trained[label])) < n and colours[index] != colour and colour in colours
    ]
    if swapped:
        yield Fault(len(swapped), swapped)


@check(
    'tally', CLASSES, 'error', 'of {n} classes only {name} occurs: there is nothing to tell apart',
    'see whether the masks are right, and which numbers they hold (--json lists them)', ends=True, whole=True,
)  # fmt: skip
def one_class(tally: Tally) -> Iterator[Fault]:
    learned, never = tally.learned_and_never()
    if len(learned) == 1 and never:
        yield Fault(values={'n': 1 + len(never), 'name': learned[0]})


@check('tally', LABELS, 'warning', '{what}', '{cure}', ends=True, whole=True)
def zero_label(tally: Tally) -> Iterator[Fault]:
    labels, n, present = tally.split.labels, len(tally.split.labels.classes), tally.present
    _, never = tally.learned_and_never()
    if labels.reduce_zero_label and 0 in present and max(v for v in present if v < 255) == n - 1:
        share = tally.pixels[0] / tally.pixels.sum()
        what = (
            f'reduce_zero_label=True ignores label 0 ({share:.1%} of the pixels) and the last class, '
            f'{labels.classes[-1]}, never occurs: the masks seem to number their classes from 0'
        )
        yield Fault(values={'what': what, 'cure': 'leave reduce_zero_label out, unless 0 does mean background'})
    elif present and not labels.reduce_zero_label and not labels.label_map and never == [labels.classes[0]]:
        what = (
            f'label 0 ({labels.classes[0]}) never occurs and all others do: the masks seem to number their classes '
            'from 1'
        )
        cure = 'set reduce_zero_label=True in the data set, or subtract 1 in the masks'
        yield Fault(values={'what': what, 'cure': cure})


@check(
    'tally', CLASSES, 'warning', 'classes that never occur: {count} of {n}',
    'add images that show them, or leave these classes out', whole=True,
)  # fmt: skip
def absent_class(tally: Tally) -> Iterator[Fault]:
    learned, never = tally.learned_and_never()
    if learned and never:
        yield Fault(len(never), never, {'n': len(learned) + len(never)})


# ---- a split that is trained on, and one that is not


@check(
    'pair', APART, 'error', 'images with exactly the pixels of one in {train}: {count}',
    'remove them from one of the two: results on {other} would be too good',
)  # fmt: skip
def leak(train: Tally, other: Tally) -> Iterator[Fault]:
    if shared := train.digests.keys() & other.digests.keys():
        examples = sorted(f'{other.digests[key][0]} = {train.digests[key][0]}' for key in shared)
        yield Fault(len(shared), examples, {'train': train.split.name, 'other': other.split.name})
