"""The rounding of one layer to 8 bits, which it is trained with: of its input, and of its kernel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

STEPS = 255  # of an input, which is unsigned
LIMIT = 127  # of a signed number
BIAS_LIMIT = 2**30  # steps of a bias, which runtimes hold in 32 bits
SMALLEST = 1e-12  # range of a kernel: one of zeros stays one


class FakeQuantizer(nn.Module):
    """Rounds a layer's input to unsigned and its kernel to signed 8 bits, and returns them as floats.

    `weight_bits` are those of the kernel, 8 or 7: a CPU without VNNI adds two products in 16 bits, which cannot
    overflow with 7. The range of the input, one for the whole map, always holds zero, which is exact, as the borders
    are padded with it. In training it follows the batches, as a moving average of their extremes. Gradients pass
    through the rounding, but not from beyond the range.

    A bias is rounded to steps of input times kernel, as integers are added up in: ONNX Runtime does so whatever a file
    says. Such steps are small beside those of the output. Where a kernel is next to nothing beside its bias, its own
    steps are larger than it needs, so that the bias has no more than 32 bits.

    Source: Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only
    Inference", CVPR 2018, section 3.1.
    """

    low: Tensor  # of the range; both are 0 until a batch was seen
    high: Tensor
    enabled = True
    momentum = 0.01  # of the moving average

    def __init__(self, weight_bits: int = 8) -> None:
        super().__init__()
        self.steps = 2 ** (weight_bits - 1) - 1  # of a kernel, on each side of zero
        self.register_buffer('low', torch.zeros(()))
        self.register_buffer('high', torch.zeros(()))
        self.constant: tuple[float, int] | None = None

    @property
    def observed(self) -> bool:
        """Whether there is a range."""
        return bool(self.low < self.high)

    @torch.no_grad()
    def observe(self, maps: Sequence[Tensor]) -> None:
        """Let the range follow a batch, of one map or of several that are concatenated."""
        weight = torch.where(self.low < self.high, self.momentum, 1.0)
        self.low.lerp_(torch.stack([x.min() for x in maps]).min().clamp(max=0).float(), weight)
        self.high.lerp_(torch.stack([x.max() for x in maps]).max().clamp(min=0).float(), weight)

    def freeze(self) -> None:
        """Make the range a constant of the graphs that are exported from now on.

        Raises:
            ValueError: there is none.
        """
        scale, zero = self._step()
        self.constant = scale.item(), int(zero)

    def _step(self) -> tuple[Tensor, Tensor]:
        """Return the size of a step and the number of the one that is zero."""
        if not (self.training or torch.compiler.is_compiling() or self.observed):
            raise ValueError(
                'a quantized layer has no range yet, which training gives it: train with configs/_base_/'
                'quantization_aware.py, from a float checkpoint, and use the checkpoint of that training'
            )
        scale = ((self.high - self.low) / STEPS).clamp_min(SMALLEST)
        return scale, (-self.low / scale).round().int()

    def _size(self) -> Tensor | float:
        return (self.constant or self._step())[0]

    def forward(self, x: Tensor) -> Tensor:
        """Round an input of any shape, which the range follows in training."""
        self.see([x])
        return self.round_input(x)

    def see(self, maps: Sequence[Tensor]) -> None:
        """Let the range follow, in training, maps of one range because a convolution takes their concatenation."""
        if self.enabled and self.training:
            self.observe(maps)

    def round_input(self, x: Tensor) -> Tensor:
        """Round an input of any shape, with the range as it is."""
        if not self.enabled:
            return x
        scale, zero = self.constant or self._step()
        return torch.fake_quantize_per_tensor_affine(x.float(), scale, zero, 0, STEPS)  # type: ignore[arg-type]

    def kernel_bias(self, kernel: Tensor, bias: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Round a kernel (C_out, C_in / groups, k, k), each output channel in steps of its own, and its bias."""
        steps = self.kernel_steps(kernel, bias)
        return self.round_kernel(kernel, steps), self.round_bias(bias, steps)

    def kernel_steps(self, kernel: Tensor, bias: Tensor | None) -> Tensor:  # (C_out,)
        """Return the size of the steps of each output channel."""
        sizes = kernel.detach().abs().amax((1, 2, 3)).float().clamp_min(SMALLEST) / self.steps
        if bias is not None and self.enabled:
            sizes = torch.maximum(sizes, bias.detach().abs().float() / (self._size() * BIAS_LIMIT))
        return sizes

    def round_kernel(self, kernel: Tensor, steps: Tensor) -> Tensor:  # (n * C_out, ...)
        """Round a kernel, a part of it or several behind one another, in steps (C_out,)."""
        if not self.enabled:
            return kernel
        steps = steps.repeat(kernel.shape[0] // steps.shape[0])
        zero = torch.zeros_like(steps, dtype=torch.int32)
        return torch.fake_quantize_per_channel_affine(kernel.float(), steps, zero, 0, -LIMIT, LIMIT)

    def round_bias(self, bias: Tensor | None, steps: Tensor) -> Tensor | None:
        """Round the bias of a kernel of these steps; that of a graph to be exported is rounded already."""
        if bias is None or not self.enabled or self.constant:
            return bias
        size = steps * self._size()
        return bias + ((bias / size).round() * size - bias).detach()

    def _load_from_state_dict(self, state_dict: dict[str, Tensor], prefix: str, *args: Any) -> None:
        for name in ('low', 'high'):  # which the float checkpoint has not that a training begins with
            state_dict.setdefault(prefix + name, getattr(self, name))
        super()._load_from_state_dict(state_dict, prefix, *args)
