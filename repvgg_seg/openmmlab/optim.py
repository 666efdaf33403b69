"""How parameters are optimized: mixed precision on any device, and weight decay as RepVGG's authors apply it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from mmengine.optim import DefaultOptimWrapperConstructor, OptimWrapper
from mmseg.registry import OPTIM_WRAPPER_CONSTRUCTORS, OPTIM_WRAPPERS
from torch import nn

from ..models.weight_decay import undecayed


@OPTIM_WRAPPERS.register_module()
class AutocastOptimWrapper(OptimWrapper):
    """Mixed precision in bfloat16 through autocast on any device: no loss scaling, which bfloat16's range does without.

    mmengine's AmpOptimWrapper refuses the CPU.
    """

    @contextmanager
    def optim_context(self, model: nn.Module) -> Iterator[None]:
        """Run the forward pass of a training step under autocast."""
        device = next(model.parameters()).device.type
        with super().optim_context(model), torch.autocast(device, torch.bfloat16):
            yield


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class RepVGGOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """mmengine's own, with weight decay only where the authors apply it: see `models.weight_decay.undecayed`.

    That holds for the heads as well, and beside anything that `paramwise_cfg` says.
    """

    def __call__(self, model: nn.Module) -> OptimWrapper:
        """Return the wrapper of an optimizer for all parameters of `model`."""
        wrapper = super().__call__(model)
        segmentor: Any = getattr(model, 'module', model)
        names = undecayed(segmentor, custom_l2=bool(getattr(segmentor, 'custom_l2', 0)))
        undecayed_ids = {id(parameter) for name, parameter in segmentor.named_parameters() if name in names}
        for group in list(wrapper.optimizer.param_groups):
            free = [parameter for parameter in group['params'] if id(parameter) in undecayed_ids]
            if free:
                group['params'] = [parameter for parameter in group['params'] if id(parameter) not in undecayed_ids]
                wrapper.optimizer.add_param_group({**group, 'params': free, 'weight_decay': 0.0})
        wrapper.optimizer.param_groups = [group for group in wrapper.optimizer.param_groups if group['params']]
        return wrapper
