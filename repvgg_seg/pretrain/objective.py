"""What pretraining minimises."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.transforms.v2 import MixUp

from ..models.classifier import RepVGGClassifier
from ..models.custom_l2 import custom_l2

MEAN, STD = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)  # of ImageNet, RGB


def normalise(images: Tensor) -> Tensor:
    """Return uint8 images (N, 3, H, W) as the float32 that the networks take."""
    mean, std = (torch.tensor(values, device=images.device).reshape(3, 1, 1) for values in (MEAN, STD))
    return (images - mean) / std


class Objective(nn.Module):
    """Cross-entropy with label smoothing and mixup, RepVGGplus' auxiliary losses, and the custom L2 penalty.

    Args:
        num_classes: classes of the data.
        label_smoothing: share of the target that is spread over all classes.
        mixup: alpha of the Beta distribution that mixes each batch with itself; 0: none.
        aux_weight: weight of each auxiliary classifier's loss.
        custom_l2: the weight decay that the custom L2 penalty stands in for; 0: none.
    """

    def __init__(
        self,
        num_classes: int,
        *,
        label_smoothing: float = 0.0,
        mixup: float = 0.0,
        aux_weight: float = 0.1,
        custom_l2: float = 0.0,
    ) -> None:
        super().__init__()
        self.mixup = MixUp(alpha=mixup, num_classes=num_classes) if mixup else nn.Identity()
        self.label_smoothing, self.aux_weight, self.custom_l2 = label_smoothing, aux_weight, custom_l2

    def forward(self, model: RepVGGClassifier, images: Tensor, labels: Tensor) -> dict[str, Tensor]:
        """Return the losses of uint8 images (N, 3, H, W) with class indices (N,), to be summed."""
        inputs, targets = self.mixup((normalise(images), labels))
        losses = {}
        for name, logits in model.forward_aux(inputs).items():
            loss = F.cross_entropy(logits.float(), targets, label_smoothing=self.label_smoothing)
            losses[f'loss_{name}'] = loss if name == 'main' else self.aux_weight * loss
        if self.custom_l2:
            losses['loss_custom_l2'] = 0.5 * self.custom_l2 * custom_l2(model)
        return losses
