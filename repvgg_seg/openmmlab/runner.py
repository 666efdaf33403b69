"""mmengine's runner, with weights in the layout that convolutions are fastest in, on several processes too."""

from __future__ import annotations

from typing import Any

import mmengine.runner
import torch
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmseg.registry import HOOKS
from torch import nn


@HOOKS.register_module()
class ChannelsLastHook(Hook):
    """Store the model's weights channels_last, in which convolutions on CPUs and on tensor cores are fastest."""

    def before_run(self, runner: mmengine.runner.Runner) -> None:
        """Convert the model; its activations follow the weights' layout.

        Raises:
            ValueError: the model is distributed already, by another runner than ours.
        """
        if not is_model_wrapper(runner.model):
            runner.model.to(memory_format=torch.channels_last)
        elif not isinstance(runner, Runner):
            raise ValueError(
                'ChannelsLastHook came after the model was distributed: use repvgg_seg.openmmlab.runner.Runner, '
                'or leave the hook out'
            )


class Runner(mmengine.runner.Runner):
    """mmengine's runner, which gives ChannelsLastHook its way before it distributes the model and not after.

    DistributedDataParallel lays its buffers out like the weights that it is given. Where the weights' layout changes
    later, the gradients of convolutions come back with their elements permuted (seen in torch 2.15).
    """

    def wrap_model(self, model_wrapper_cfg: dict[str, Any] | None, model: nn.Module) -> nn.Module:
        """Return `model`, on its device and in its layout, wrapped if there are several processes."""
        if any(hook['type'] == 'ChannelsLastHook' for hook in self.cfg.get('custom_hooks') or ()):
            model = model.to(memory_format=torch.channels_last)
        return super().wrap_model(model_wrapper_cfg, model)
