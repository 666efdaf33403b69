"""The inference graph: the one function from image to class map that is verified, exported and timed."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..models.block import RepVGGBlock, fuse_conv_bn
from ..models.class_map import class_map
from ..models.folding import map_size, resize
from ..models.quantized import norm_behind
from ..runtime.metadata import OUTPUTS, Output

Model = TypeVar('Model', bound=nn.Module)


def fold_norms(model: Model, *, inplace: bool = False, kind: type[nn.Conv2d] = nn.Conv2d) -> Model:
    """Return a copy of `model` in eval mode in which a convolution and the batch norm behind it are one convolution.

    Finds the pairs that heads and necks are made of: see `norm_behind`. RepVGG blocks are left to `switch_to_deploy`.
    The copy computes the same function but has other parameters: it is for the inference graph, not for checkpoints.
    Only convolutions of `kind` are folded.

    Raises:
        ValueError: a norm keeps no running statistics.
    """
    model = (model if inplace else copy.deepcopy(model)).eval()
    for module in model.modules():
        pair: Any = module
        norm = norm_behind(module)
        if norm is not None and isinstance(pair.conv, kind):
            _fold(pair.conv, norm)
            pair.with_norm = False
            setattr(pair, pair.norm_name, nn.Identity())
    return model


@torch.no_grad()
def _fold(conv: nn.Conv2d, norm: _BatchNorm) -> None:
    kernel, bias = fuse_conv_bn(conv.weight, norm, conv.bias)
    conv.bias = nn.Parameter(bias.to(conv.weight.dtype), requires_grad=False)
    conv.weight.copy_(kernel)


def choose_for_int8(model: Model) -> Model:
    """Let what may compute in one of several forms choose the fastest in int8, as folded heads; return `model`."""
    for module in model.modules():
        if hasattr(module, 'int8'):
            module.int8 = True  # type: ignore[assignment]
    return model


def input_channels(model: nn.Module) -> int:
    """Return how many channels the images have that `model` takes: those of its first convolution, or else 3."""
    return next((m.in_channels for m in model.modules() if isinstance(m, RepVGGBlock | nn.Conv2d)), 3)


class InferenceGraph(nn.Module):
    """A whole segmentor: uint8 images (N, H, W, C) -> class indices (N, H, W), uint8 or above 256 classes uint16.

    C is `channels`, the number that the backbone takes; three channels are in the order RGB.

    Normalisation, backbone, neck, decode head, resizing of the logits to (H, W) and argmax, as mmseg's whole-image
    inference does them, the last two without enlarging the logits: see models/class_map.py. `segmentor` is read by its
    attributes only, so this needs nothing of mmseg; it is not copied. In a deployed segmentor with folded norms, only
    convolutions, pooling and resizing are left. Normalisation stays in front: a stem that absorbed the mean
    would be wrong along the border, where its zeros stand for the mean.

    `resize_to` is the (H, W) that the network sees where images are larger or smaller: bilinear, which is mmseg's
    Resize without its rounding to whole grey values. `output='logits'` returns (N, classes, H, W) instead.
    The network's arithmetic runs in the dtype of its parameters; what comes before and after it, in at least float32,
    so that half precision loses as little as possible.

    Raises:
        ValueError: `segmentor` is not an encoder-decoder with a single decode head, or normalises other channels than
            its backbone has.
    """

    mean: Tensor
    std: Tensor
    wide = torch.uint16  # of the indices of more than 256 classes; an exporter without this type sets another

    def __init__(
        self, segmentor: nn.Module, *, resize_to: tuple[int, int] | None = None, output: Output = 'classes'
    ) -> None:
        super().__init__()
        head: Any = getattr(segmentor, 'decode_head', None)
        preprocessor: Any = getattr(segmentor, 'data_preprocessor', None)
        if not isinstance(head, nn.Module) or isinstance(head, nn.ModuleList) or preprocessor is None:
            raise ValueError(
                f'{type(segmentor).__name__} is not a segmentor with a data preprocessor, a backbone and one decode '
                'head; cascaded heads are not supported'
            )
        if output not in OUTPUTS:
            raise ValueError(f'unknown output {output!r}: it is one of {", ".join(OUTPUTS)}')
        backbone: Any = segmentor.backbone
        self.backbone: nn.Module = backbone
        self.channels = input_channels(backbone)
        self.neck: nn.Module = getattr(segmentor, 'neck', None) or nn.Identity()
        self.decode_head = head
        self.resize_to, self.output = resize_to, output
        self.align_corners = bool(head.align_corners)
        # mmseg reads images as BGR, so a model that does not swap the channels wants them in that order.
        self.bgr = self.channels == 3 and not preprocessor._channel_conversion
        # For a sigmoid, whose one channel separates two classes.
        self.threshold: Any = getattr(head, 'threshold', None)
        for name, nothing in (('mean', torch.zeros), ('std', torch.ones)):
            value = getattr(preprocessor, name) if preprocessor._enable_normalize else nothing(self.channels)
            if value.numel() not in (1, self.channels):
                raise ValueError(
                    f'the backbone takes {self.channels} channels, but data_preprocessor.{name} has {value.numel()} '
                    'entries: give one for each channel'
                )
            self.register_buffer(name, value.flatten().expand(self.channels).reshape(1, -1, 1, 1), False)

    def cast(self, dtype: torch.dtype) -> InferenceGraph:
        """Convert the network's parameters, in place, and leave the normalisation as it is; return self."""
        for network in (self.backbone, self.neck, self.decode_head):
            network.to(dtype)
        return self

    def scores(self, images: Tensor) -> Tensor:  # (N, H, W, C) -> (N, classes, h, w)
        """Return the logits in the size in which the network makes them (one channel for a sigmoid head)."""
        dtype = next(self.decode_head.parameters()).dtype
        outside = torch.float64 if dtype == torch.float64 else torch.float32
        x = (images.flip(-1) if self.bgr else images).to(outside).permute(0, 3, 1, 2)  # (N, C, H, W)
        if self.resize_to:
            x = F.interpolate(x, self.resize_to, mode='bilinear', align_corners=False)
        x = (x - self.mean.to(outside)) / self.std.to(outside)
        return self.decode_head(self.neck(self.backbone(x.to(dtype)))).to(outside)

    def enlarged(self, scores: Tensor, size: tuple[int, int]) -> Tensor:  # (N, classes, h, w) -> (N, classes, *size)
        """Return the logits of the network at `size`, as mmseg enlarges them: from `resize_to` on in a second step."""
        # By matrix products: with argmax behind them OpenVINO needs 13 ms in place of 41 for its own resizing, in
        # float32 (19 classes, 64x128 to 512x1024, 2 cores of an Intel Sapphire Rapids), and in half precision it
        # keeps the second, whose constant is on the left, in float32.
        for step in (self.resize_to or size, size):
            scores = scores if map_size(scores) == step else resize(scores, step, self.align_corners)
        return scores

    def logits(self, images: Tensor) -> Tensor:  # (N, H, W, C) -> (N, classes, H, W)
        """Return the logits at the size of `images` (one channel for a sigmoid head)."""
        return self.enlarged(self.scores(images), (images.shape[1], images.shape[2]))

    def forward(self, images: Tensor) -> Tensor:  # (N, H, W, C) -> (N, H, W) or (N, classes, H, W)
        if self.output == 'logits':
            return self.logits(images)
        return self.classes(self.scores(images), (images.shape[1], images.shape[2]))

    def classes(self, scores: Tensor, size: tuple[int, int] | None = None) -> Tensor:  # -> (N, *size)
        """Return the class of each pixel of the network's logits at `size`, by default of logits as they are."""
        if scores.shape[1] == 1:
            enlarged = self.enlarged(scores, size) if size else scores
            return (enlarged.sigmoid() > self.threshold)[:, 0].to(torch.uint8)
        through = self.resize_to if size else None
        classes = class_map(scores, size or map_size(scores), self.align_corners, through)
        return classes if scores.shape[1] <= 256 else classes.to(self.wide)
