"""mmseg's PSP and UPer heads with less work: the same parameters, keys and output; see ..models.folding."""

from __future__ import annotations

import copy
import functools
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from mmcv.cnn import ConvModule
from mmengine.config import Config
from mmengine.logging import print_log
from mmseg.models.decode_heads.decode_head import BaseDecodeHead
from mmseg.models.decode_heads.psp_head import PPM, PSPHead
from mmseg.models.decode_heads.uper_head import UPerHead
from mmseg.registry import MODELS
from torch import Tensor, nn

from ..models.folding import Rounding, convolve_enlarged, enlarge, map_size, pool_pyramid
from ..models.quantized import QuantizedConv2d


class _Folded:
    """What both heads share: a pyramid of pooled maps, and convolutions of maps that are not enlarged first."""

    align_corners: bool
    int8 = False  # whether the form is chosen that is the fastest in int8: see deploy.graph.choose_for_int8
    psp_modules: PPM
    bottleneck: ConvModule
    _transform_inputs: Callable[[Sequence[Tensor]], Any]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if reason := _obstacle(self):
            plain = type(self).__name__.removeprefix('Folded')
            raise ValueError(f"this head cannot be folded: {reason}. Use type='{plain}', which computes the same")

    def _pyramid(self, x: Tensor) -> Tensor:  # (N, C, H, W) -> (N, channels, H, W)
        """Return the bottleneck's output on `x` and what is pooled from it."""
        pooled = pool_pyramid(x, [_pair(pool.output_size) for pool, _ in self.psp_modules])
        maps = [conv(p) for (_, conv), p in zip(self.psp_modules, pooled, strict=True)]
        return self._convolve(self.bottleneck, [x, *maps])

    def _convolve(self, module: ConvModule, maps: Sequence[Tensor]) -> Tensor:
        """Return `module` of `maps`, as if all were enlarged to the size of the first and concatenated."""
        conv = module.conv
        kernel, bias, int8, rounding = conv.weight, conv.bias, self.int8, Rounding()
        if isinstance(conv, QuantizedConv2d):
            quantizer = conv.quantizer
            quantizer.see(maps)
            kernel, bias = conv.kernel_bias()
            steps = quantizer.kernel_steps(kernel, bias)
            bias = quantizer.round_bias(bias, steps)
            int8 = int8 or quantizer.enabled
            rounding = Rounding(quantizer.round_input, functools.partial(quantizer.round_kernel, steps=steps))
        size = map_size(maps[0])
        out = convolve_enlarged(
            maps, kernel, bias, size=size, align_corners=self.align_corners, int8=int8, rounding=rounding
        )
        out = module.norm(out) if module.with_norm else out
        return module.activate(out) if module.with_activation else out


class _FoldedPSP(_Folded):
    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        return self._pyramid(self._transform_inputs(inputs))


class _FoldedUPer(_Folded):
    lateral_convs: nn.ModuleList
    fpn_convs: nn.ModuleList
    fpn_bottleneck: ConvModule

    def psp_forward(self, inputs: Sequence[Tensor]) -> Tensor:
        return self._pyramid(inputs[-1])

    def _forward_feature(self, inputs: Sequence[Tensor]) -> Tensor:
        maps = self._transform_inputs(inputs)
        laterals = [conv(x) for conv, x in zip(self.lateral_convs, maps[:-1], strict=True)]
        laterals.append(self.psp_forward(maps))
        for i in range(len(laterals) - 1, 0, -1):
            laterals[i - 1] = laterals[i - 1] + enlarge(laterals[i], map_size(laterals[i - 1]), self.align_corners)
        outputs = [conv(x) for conv, x in zip(self.fpn_convs, laterals[:-1], strict=True)]
        return self._convolve(self.fpn_bottleneck, [*outputs, laterals[-1]])


@MODELS.register_module()
class FoldedPSPHead(_FoldedPSP, PSPHead):
    """PSPHead without enlarged maps: it takes PSPHead's arguments and checkpoints and gives its output.

    Raises:
        ValueError: the arguments make a head that cannot be folded.
    """


@MODELS.register_module()
class FoldedUPerHead(_FoldedUPer, UPerHead):
    """UPerHead with fewer enlarged maps: it takes UPerHead's arguments and checkpoints and gives its output.

    Raises:
        ValueError: the arguments make a head that cannot be folded.
    """


@dataclass(frozen=True)
class HeadReport:
    """What `fold_heads` did with one head."""

    name: str  # in the model, such as 'decode_head'
    type: str  # its class before
    reason: str | None  # why it was left as it is; None: it is folded

    @property
    def folded(self) -> bool:
        """Whether it is folded now."""
        return self.reason is None


def fold_heads(model: nn.Module) -> list[HeadReport]:
    """Fold every PSP and UPer head of an mmseg `model` in place, and report on each of its heads.

    Parameters, buffers, keys and output stay the same, with any backbone. A head whose computation is not
    mmseg's own (another resizing, a changed bottleneck) is left alone; the report and the log say why.
    """
    reports = []
    for name, head in model.named_modules():
        if not isinstance(head, BaseDecodeHead):
            continue
        kind: Any = type(head)
        reason = _foreign(head) or _obstacle(head)
        if reason is None:
            # Only the class changes, so whatever refers to the head, such as an optimizer, remains valid.
            head.__class__ = _folded_class(kind)
        reports.append(HeadReport(name, kind.__name__, reason))
        outcome = f'left as it is: {reason}' if reason else 'folded'
        print_log(f'{name or "the model"} ({kind.__name__}): {outcome}', logger='current', level=logging.INFO)
    return reports


def unfolded(cfg: Config) -> Config:
    """Return a copy of `cfg` with mmseg's own heads in place of their folded forms: the same network, slower."""
    cfg = copy.deepcopy(cfg)
    for head in (cfg.model.decode_head, cfg.model.get('auxiliary_head')):
        if head:
            head.type = head.type.removeprefix('Folded')
    return cfg


# For each head that can be folded: its folded form, the mixin that makes it, and the methods replaced or relied on.
_FORMS: dict[type, tuple[type, type, tuple[str, ...]]] = {
    PSPHead: (FoldedPSPHead, _FoldedPSP, ('forward', '_forward_feature', '_transform_inputs')),
    UPerHead: (FoldedUPerHead, _FoldedUPer, ('forward', '_forward_feature', '_transform_inputs', 'psp_forward')),
}


@functools.cache
def _folded_class(kind: type) -> type:
    if kind in _FORMS:
        return _FORMS[kind][0]
    mixin = next(mixin for base, (_, mixin, _) in _FORMS.items() if issubclass(kind, base))
    # Pickle finds no class that is made here by its name; it makes the head again from the class that it can find.
    reduced = {'__reduce_ex__': lambda self, _: (_empty, (kind,), self.__dict__)}
    return type(f'Folded{kind.__name__}', (mixin, kind), {'__module__': kind.__module__, **reduced})


def _empty(kind: type) -> nn.Module:
    """Return a head of the folded class of `kind`, as pickle fills one."""
    return object.__new__(_folded_class(kind))


def _foreign(head: BaseDecodeHead) -> str | None:
    """Return why `head` does not compute what mmseg's PSPHead or UPerHead does, if so."""
    if isinstance(head, _Folded):
        return 'it is folded already'
    base = next((base for base in _FORMS if isinstance(head, base)), None)
    if base is None:
        return 'it is neither a PSPHead nor a UPerHead'
    for method in _FORMS[base][2]:
        if method in vars(head) or getattr(type(head), method) is not getattr(base, method):
            return f'its {method} is not that of {base.__name__}'
    return None


def _obstacle(head: Any) -> str | None:
    """Return what about the parts of `head`, a PSP or UPer head, the algebra does not cover, if anything."""
    if type(head.psp_modules).forward is not PPM.forward or 'forward' in vars(head.psp_modules):
        return 'its psp_modules pool or resize in a way of their own'
    if head.psp_modules.align_corners != head.align_corners:
        return 'its psp_modules resize with another align_corners'
    for module in head.psp_modules:
        pool = module[0] if isinstance(module, nn.Sequential) and len(module) == 2 else module
        if type(pool) is not nn.AdaptiveAvgPool2d or None in _pair(pool.output_size):
            return f'its psp_modules hold {type(pool).__name__} where an AdaptiveAvgPool2d and a convolution belong'
    for name in ('bottleneck', 'fpn_bottleneck'):
        if (module := getattr(head, name, None)) is not None and (reason := _unusual(module)):
            return f'its {name} {reason}'
    for name, module in _uncalled(head):
        if any(getattr(module, hooks) for hooks in _HOOKS):
            return f'its {name} has hooks, which would no longer be called'
    return None


# Where torch keeps what is to be called along with a module.
_HOOKS = ('_forward_hooks', '_forward_pre_hooks', '_backward_hooks', '_backward_pre_hooks')


def _uncalled(head: Any) -> Iterator[tuple[str, nn.Module]]:
    """Yield the modules that a folded head reads the parameters of and does not call, with their names."""
    yield 'psp_modules', head.psp_modules
    for index, module in enumerate(head.psp_modules):
        yield f'psp_modules[{index}]', module
        yield f'psp_modules[{index}][0]', module[0]
    for name in ('bottleneck', 'fpn_bottleneck'):
        if hasattr(head, name):
            yield name, getattr(head, name)
            yield f'{name}.conv', getattr(head, name).conv


def _unusual(module: nn.Module) -> str | None:
    """Return how `module` differs from a plain convolution of odd kernel, padded to keep the size, if it does."""
    if not isinstance(module, ConvModule) or type(module).forward is not ConvModule.forward:
        return f'is a {type(module).__name__}'
    conv = module.conv
    if not isinstance(conv, nn.Conv2d) or type(conv).forward is not nn.Conv2d.forward:
        return f'convolves with {type(conv).__name__}'
    if type(conv)._conv_forward is not nn.Conv2d._conv_forward or {'forward', '_conv_forward'} & vars(conv).keys():
        return f'convolves with a changed {type(conv).__name__}'
    if module.order != ('conv', 'norm', 'act'):
        return f'has the order {"-".join(module.order)}'
    geometry = {
        'padding mode': (conv.padding_mode if not module.with_explicit_padding else module.padding_layer, 'zeros'),
        'stride': (conv.stride, (1, 1)),
        'dilation': (conv.dilation, (1, 1)),
        'groups': (conv.groups, 1),
    }
    for what, (value, usual) in geometry.items():
        if value != usual:
            return f'has {what} {value}'
    same = tuple(k // 2 for k in conv.kernel_size)
    if any(k % 2 == 0 for k in conv.kernel_size) or conv.padding not in (same, 'same'):
        return f'has kernel {conv.kernel_size} with padding {conv.padding}'
    return None


def _pair(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)
