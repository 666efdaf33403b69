"""Trainings that can stop at any iteration and go on as if they had not: the same data, augmented in the same way.

Whatever is random is a function of the seed and of the place in the training.
"""

from __future__ import annotations

import errno
import logging
import os
import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import islice
from typing import Any

import torch
from mmengine.dataset import InfiniteSampler
from mmengine.dist import get_rank
from mmengine.runner import BaseLoop, EpochBasedTrainLoop, IterBasedTrainLoop
from mmengine.runner import Runner as MMRunner
from mmseg.registry import DATA_SAMPLERS, DATASETS, LOOPS
from torch import nn
from torch.utils.data import Sampler

from .. import interruption
from ..files import FileError
from ..randomness import Key, mixed, seeded
from .work_dir import last_good


class PlacedSampler(Sampler[Key]):
    """The order of another sampler, from the sample number `first` of `epoch` on, with the seed of each augmentation.

    `sampler` is the config of one that is a function of its `seed` and epoch, as those of mmengine are.
    """

    def __init__(self, sampler: dict[str, Any], dataset: Any, seed: int | None) -> None:
        self.sampler = DATA_SAMPLERS.build(sampler, default_args={'dataset': dataset, 'seed': seed})
        self.seed, self.epoch, self.first = seed or 0, 0, 0

    @property
    def endless(self) -> bool:
        """Whether it is one epoch without end."""
        return isinstance(self.sampler, InfiniteSampler)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.sampler)

    def __iter__(self) -> Iterator[Key]:
        self.sampler.seed = self.seed
        if hasattr(self.sampler, 'set_epoch'):
            self.sampler.set_epoch(self.epoch)
        for place, index in islice(enumerate(self.sampler), self.first, None):
            yield index, mixed(self.seed, self.epoch, get_rank(), place)


class PlacedDataset:
    """Another data set, or the one of a config, whose samples are taken by the keys of PlacedSampler."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = DATASETS.build(dataset) if isinstance(dataset, dict) else dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: Key) -> Any:
        index, seed = key
        with seeded(seed):
            return self.dataset[index]

    def __getattr__(self, name: str) -> Any:
        if name == 'dataset':  # it is being copied, and has nothing yet
            raise AttributeError(name)
        return getattr(self.dataset, name)


def placed(loader: dict[str, Any]) -> dict[str, Any]:
    """Return the config of a data loader with a PlacedSampler, unless its own sampler does what that does."""
    sampler = loader['sampler']
    if not isinstance(sampler, dict) or getattr(DATA_SAMPLERS.get(sampler['type']), 'places', False):
        return loader
    return {
        **loader,
        'dataset': {'type': PlacedDataset, 'dataset': loader['dataset']},
        'sampler': {'type': PlacedSampler, 'sampler': sampler},
    }


class Resumable(BaseLoop):
    """What both kinds of loops share; `is_at_validation` tells whether a resumed run stands where one validates."""

    runner: Any
    _iter: int
    val_begin: int
    val_interval: int

    def run(self) -> nn.Module:
        """Train; a signal ends that after an iteration, and what ends it from outside is told in one sentence."""
        with interruption.noticed(), _told(self.runner):
            return super().run()

    def run_iter(self, *args: Any) -> None:
        """Make one step."""
        seed = mixed(self.runner.seed, self._iter, get_rank())
        if torch.cuda.is_available():
            torch.cuda.manual_seed(seed)
        with seeded(seed):
            super().run_iter(*args)

    @abstractmethod
    def is_at_validation(self) -> bool: ...

    def _is_due(self, done: int, last: int) -> bool:
        due = done >= self.val_begin and (done % self.val_interval == 0 or done == last)
        return done > 0 and due and self.runner.val_loop is not None

    def _sampler(self) -> Any:
        """Return the sampler, with the seed that this run began with: a resumed one has taken that over by now."""
        sampler = self.dataloader.batch_sampler.sampler
        ranks = self.runner._randomness_cfg.get('diff_rank_seed', False)
        sampler.seed = self.runner.seed - get_rank() * ranks  # the order is of all processes together
        return sampler


class _Batches:
    """The batches of a training from any iteration on, without end."""

    def __init__(self, loop: Any) -> None:
        self.loop, self.first = loop, 0
        self._batches = self._generate()

    def skip_iter(self, iterations: int) -> None:
        """Leave out so many."""
        self.first = iterations

    def _generate(self) -> Iterator[Sequence[dict]]:
        sampler, loader = self.loop._sampler(), self.loop.dataloader
        epoch, first = (0, self.first) if getattr(sampler, 'endless', False) else divmod(self.first, len(loader))
        while True:
            sampler.epoch, sampler.first = epoch, first * loader.batch_sampler.batch_size
            yield from loader
            epoch, first = epoch + 1, 0

    def __next__(self) -> Sequence[dict]:
        return next(self._batches)


@LOOPS.register_module()
class ResumableIterLoop(Resumable, IterBasedTrainLoop):
    """mmengine's loop over iterations, exactly resumable."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.dataloader_iterator: Any = _Batches(self)

    def is_at_validation(self) -> bool:
        return self._is_due(self._iter, self._max_iters)


@LOOPS.register_module()
class ResumableEpochLoop(Resumable, EpochBasedTrainLoop):
    """mmengine's loop over epochs, resumable exactly and in the middle of one."""

    def is_at_validation(self) -> bool:
        return self._iter == self._epoch * len(self.dataloader) and self._is_due(self._epoch, self._max_epochs)

    def run_epoch(self) -> None:
        """Train what is left of an epoch."""
        sampler, done = self._sampler(), self._iter - self._epoch * len(self.dataloader)
        sampler.epoch = self._epoch
        # A checkpoint that was made with other batches begins its epoch anew.
        sampler.first = done * self.dataloader.batch_sampler.batch_size if 0 <= done <= len(self.dataloader) else 0
        super().run_epoch()

    def run_iter(self, idx: int, data_batch: Sequence[dict]) -> None:
        """Make one step; `idx` counts from where the epoch was entered."""
        super().run_iter(self._iter % len(self.dataloader), data_batch)


RESUMABLE: dict[Any, type] = {'IterBasedTrainLoop': ResumableIterLoop, 'EpochBasedTrainLoop': ResumableEpochLoop}


def quiet_worker(*args: Any, init: Any = None) -> None:
    """Begin a worker of a data loader, which ends with its parent and leaves signals to it."""
    interruption.obey_parent_alone()
    if init:
        init(*args)


@contextmanager
def _told(runner: MMRunner) -> Iterator[None]:
    """Tell what happens to the disk or to other processes in one sentence that names the last good checkpoint."""
    raise_exceptions, logging.raiseExceptions = logging.raiseExceptions, False  # a full disk fails each line of the log
    try:
        yield
    except (OSError, RuntimeError, EOFError, FileError) as error:
        if not (cause := _cause(error, runner)):
            raise
        raise ValueError(f'{cause}; {last_good(runner.work_dir)}') from error
    finally:
        logging.raiseExceptions = raise_exceptions


def _cause(error: Exception, runner: MMRunner) -> str | None:
    """Return what has ended a training from outside, and what to do; None if it was something else."""
    text = str(error)
    if not os.path.isdir(runner.log_dir):
        return f'{runner.log_dir} was removed while this training wrote to it'
    if re.search(r'DataLoader worker \(pid', text) or isinstance(error, (ConnectionError, EOFError)):
        return (
            'a process that loads data was killed or died, probably for lack of memory (or of shared memory, '
            '/dev/shm): lower train_dataloader.num_workers or train_dataloader.batch_size, and go on with --resume'
        )
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
        return f'{runner.work_dir} cannot be written ({error.strerror}): make room, and go on with --resume'
    if isinstance(error, FileError):
        return text
    if 'onnection closed by peer' in text or 'onnection reset by peer' in text:
        return 'another process of this training has ended: what it says is the cause'
    return None
