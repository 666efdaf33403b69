"""The inference graph: the one function from image to class map that is verified, exported and timed."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class InferenceGraph(nn.Module):
    """A whole segmentor: uint8 RGB images (N, H, W, 3) -> class indices (N, H, W), uint8 or above 256 classes uint16.

    Normalisation, backbone, neck, decode head, resizing of the logits to (H, W) and argmax, as mmseg's whole-image
    inference does them. `segmentor` is read by its attributes only, so this needs nothing of mmseg; it is not copied.
    The arithmetic runs in the dtype of the segmentor's parameters.

    Raises:
        ValueError: `segmentor` is not an encoder-decoder with a single decode head.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, segmentor: nn.Module) -> None:
        super().__init__()
        head: Any = getattr(segmentor, 'decode_head', None)
        preprocessor: Any = getattr(segmentor, 'data_preprocessor', None)
        if not isinstance(head, nn.Module) or isinstance(head, nn.ModuleList) or preprocessor is None:
            raise ValueError(
                f'{type(segmentor).__name__} is no segmentor with a data preprocessor, a backbone and one decode head; '
                'cascaded heads are not supported'
            )
        backbone: Any = segmentor.backbone
        self.backbone: nn.Module = backbone
        if (channels := backbone.stage0.in_channels) != 3:
            raise ValueError(f'the inference graph takes RGB images, but this backbone has {channels} input channels')
        self.neck: nn.Module = getattr(segmentor, 'neck', None) or nn.Identity()
        self.decode_head = head
        self.align_corners = bool(head.align_corners)
        # mmseg reads images as BGR, so a model that does not swap the channels wants them in that order.
        self.bgr = not preprocessor._channel_conversion
        # Of a sigmoid, which tells two classes apart by one channel.
        self.threshold: Any = getattr(head, 'threshold', None)
        normalise = preprocessor._enable_normalize
        self.register_buffer(
            'mean', preprocessor.mean.reshape(1, 3, 1, 1) if normalise else torch.zeros(1, 3, 1, 1), False
        )
        self.register_buffer(
            'std', preprocessor.std.reshape(1, 3, 1, 1) if normalise else torch.ones(1, 3, 1, 1), False
        )

    def logits(self, images: Tensor) -> Tensor:  # (N, H, W, 3) -> (N, classes, H, W)
        """Return the logits at the size of `images` (one channel for a sigmoid head)."""
        dtype = next(self.decode_head.parameters()).dtype
        x = images.permute(0, 3, 1, 2)  # (N, 3, H, W)
        x = (x.flip(1) if self.bgr else x).to(dtype)
        x = (x - self.mean.to(dtype)) / self.std.to(dtype)
        out = self.decode_head(self.neck(self.backbone(x)))
        return F.interpolate(out, size=images.shape[1:3], mode='bilinear', align_corners=self.align_corners)

    def forward(self, images: Tensor) -> Tensor:  # (N, H, W, 3) -> (N, H, W)
        return self.classes(self.logits(images))

    def classes(self, logits: Tensor) -> Tensor:  # (N, classes, H, W) -> (N, H, W)
        """Return the class of each pixel."""
        if logits.shape[1] == 1:
            return (logits[:, 0].sigmoid() > self.threshold).to(torch.uint8)
        return logits.argmax(1).to(torch.uint8 if logits.shape[1] <= 256 else torch.uint16)
