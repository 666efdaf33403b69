"""Fixtures and helpers that several test modules share."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from repvgg_seg import Variant

# Small enough to train in a test; groups in every second block and an identity branch in stage 3.
TINY = Variant('tiny', blocks=(1, 2, 3, 1), widths=(0.25, 0.25, 0.125, 0.125))
TINY_GROUPED = Variant('tiny-grouped', blocks=(2, 2, 3, 1), widths=(0.25, 0.25, 0.125, 0.125), groups=2)
TINY_SE = Variant('tiny-se', blocks=(1, 2, 3, 1), widths=(0.5, 0.25, 0.25, 0.125), se='pre')
TINY_PLUS = Variant('tiny-plus', blocks=(1, 2, 4, 1), widths=(0.25, 0.25, 0.125, 0.125), se='post', aux_classifiers=True)
TINY_VARIANTS = (TINY, TINY_GROUPED, TINY_SE, TINY_PLUS)


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every batch norm random statistics and a random affine, as after training; freshly built they are trivial."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.running_mean.uniform_(-0.5, 0.5, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
                if module.affine:
                    module.weight.uniform_(-1, 1.5, generator=generator)
                    module.bias.uniform_(-0.5, 0.5, generator=generator)
    return model


def relative(result: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the largest deviation over the largest magnitude of the reference."""
    return ((result - reference).abs().max() / reference.abs().max()).item()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
