"""A split of a data set, as the checks see it: its files, its classes, and how a training reads both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TypeVar

import numpy as np

from .samples import Reading

Item = TypeVar('Item')


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
class Folders:
    """Where a split takes all its files from, and how their names end."""

    images: str
    masks: str
    image_suffixes: tuple[str, ...] = ()
    mask_suffixes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Split:
    """The samples of one data set of a config, how they are read, and the outputs of the heads that learn from them."""

    name: str
    pairs: Sequence[tuple[str, str]]  # (image, mask)
    labels: Labels
    reading: Reading = field(default_factory=Reading)
    outputs: Mapping[str, int] = field(default_factory=dict)  # name of a head -> its number of classes
    folders: Folders | None = None  # None: the samples are listed, so other files may lie beside them

    @property
    def is_training(self) -> bool:
        """Whether the network learns from it."""
        return self.name.startswith('train')


def spread(items: Sequence[Item], number: int) -> list[Item]:
    """Return `number` of `items`, spread evenly over them; all of them if there are no more."""
    return [items[i * len(items) // number] for i in range(number)] if len(items) > number else list(items)
