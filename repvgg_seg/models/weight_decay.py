"""Which parameters weight decay leaves alone."""

from __future__ import annotations

from torch import nn

from .block import RepVGGBlock

# The kernels of a block that the custom L2 penalty is about.
_CUSTOM_L2 = ('rbr_dense.conv.weight', 'rbr_1x1.conv.weight')


def undecayed(model: nn.Module, *, custom_l2: bool = False) -> set[str]:
    """Return the names, as in `model.named_parameters()`, of the parameters that get no ordinary weight decay.

    They are the one-dimensional ones, biases and what norms multiply by, wherever in the model they are: trunk,
    classifiers, segmentation heads. One kind is decayed nevertheless, the weight of a block's identity norm: it is the
    kernel of that branch. `custom_l2` adds the kernels that `custom_l2(model)` decays instead.

    Source: the authors' repository. The recipes of the paper (train.py: no decay if the name contains 'bias' or 'bn')
    and of RepVGGplus (train/optimizer.py: none on one-dimensional parameters but 'identity.weight') choose the same.
    """
    names = {name for name, parameter in model.named_parameters() if parameter.ndim <= 1}
    for prefix, block in model.named_modules():
        if isinstance(block, RepVGGBlock) and not block.fused:
            prefix = f'{prefix}.' if prefix else ''
            names.discard(f'{prefix}rbr_identity.weight')
            if custom_l2:
                names |= {prefix + kernel for kernel in _CUSTOM_L2}
    return names
