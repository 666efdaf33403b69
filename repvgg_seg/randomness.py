"""Random numbers that are a function of a place in a training, so that it can stop at any place and go on there."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

Key = tuple[int, int]  # index of a sample, seed of its augmentation


def mixed(*numbers: int) -> int:
    """Return one seed for torch that depends on all of `numbers`."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Draw random numbers of torch on the CPU, numpy and Python from `seed`; outside it is as if none were drawn."""
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    torch.default_generator.manual_seed(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)
    try:
        yield
    finally:
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])
