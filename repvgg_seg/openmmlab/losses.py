"""Losses that mmseg does not have, or not for every device."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from mmseg.registry import MODELS
from torch import Tensor, nn


@MODELS.register_module()
class SoftmaxFocalLoss(nn.Module):
    """The focal loss of a softmax: cross-entropy, in which a pixel counts (1 - probability of its class) ** gamma.

    mmseg's FocalLoss needs compiled operators of mmcv on GPUs, and fails on CPUs (mmseg 1.4.2).

    Args:
        gamma: how little pixels count that are classified well; 0 is cross-entropy.
        class_weight: a factor for each class.
        loss_weight: a factor for all.
        loss_name: its name in the log, which has to begin with 'loss_'.

    Source: Lin et al., "Focal Loss for Dense Object Detection", ICCV 2017.
    """

    def __init__(
        self,
        gamma: float = 2.0,
        class_weight: Sequence[float] | None = None,
        loss_weight: float = 1.0,
        loss_name: str = 'loss_focal',
    ) -> None:
        super().__init__()
        self.gamma, self.class_weight, self.loss_weight, self.loss_name = gamma, class_weight, loss_weight, loss_name

    def forward(
        self, score: Tensor, target: Tensor, weight: Tensor | None = None, ignore_index: int = 255
    ) -> Tensor:  # (N, C, H, W), (N, H, W), (N, H, W) -> ()
        """Return the mean over all pixels, those that are ignored included, as mmseg's cross-entropy does."""
        factors = None if self.class_weight is None else score.new_tensor(self.class_weight)
        log = F.cross_entropy(score, target, reduction='none', ignore_index=ignore_index)  # 0 where it is ignored
        loss = (1 - (-log).exp()) ** self.gamma * log
        if factors is not None:
            loss = loss * factors[target.where(target != ignore_index, target.new_zeros(()))]
        return self.loss_weight * (loss if weight is None else loss * weight).mean()
