"""Structural re-parameterization of whole models, and the proof that it changed nothing.

Source of the method: Ding et al., "RepVGG: Making VGG-style ConvNets Great Again", CVPR 2021, section 3.3.
"""

from __future__ import annotations

import copy
import json
import platform
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..environment import versions
from ..files import sha256, write_text
from ..locking import one_at_a_time
from ..models.block import RepVGGBlock
from ..models.classifier import RepVGGClassifier
from ..models.quantized import QuantizedConv2d, without_rounding
from ..models.variants import get_variant
from ..weights.checkpoint_io import write_checkpoint
from ..weights.pretrained import Checkpoint, load_weights, read_weights
from .graph import InferenceGraph, fold_norms, input_channels

Model = TypeVar('Model', bound=nn.Module)

MIN_QUANTIZED_AGREEMENT = 0.995  # of the classes of two networks that round alike to 8 bits
MIN_AGREEMENT = 0.9999  # of the classes, where nothing is left to rounding
VERIFY_SIZES = ((128, 256), (97, 131))  # (H, W): one that every stride divides, one that none does


class VerificationError(ValueError):
    """The converted model does not compute what the original computes."""


@dataclass(frozen=True)
class Check:
    """One comparison of a converted model with its original."""

    name: str
    fuse: bool  # whether the original is fused anew in `dtype`, or the converted model is taken as it is
    dtype: torch.dtype  # of the arithmetic
    unit: float  # what one rounding costs at most, relative: of the arithmetic, or of the stored weights
    max_rel: float  # what is tolerated in any network


DOUBLE, SINGLE = 2.0**-53, 2.0**-24


# A right fusion leaves about 1e-15 in float64, a wrong one 1e-2. Stored weights are rounded once, to 6e-8 in float32;
# in float32 arithmetic depth amplifies that to about 1e-6 in a trained network and 1e-5 in a random one. A deep network
# can amplify it more. How much is measured on the original alone, as the deviation between its own float32 and float64
# outputs; HEADROOM times that is tolerated, in the unit of each check: right conversions of networks of 48 blocks need
# up to 3 times. A small fault cannot hide in it, as `_require_weights` looks at each number.
CHECKS = (
    Check('algebra', True, torch.float64, DOUBLE, 1e-10),
    Check('weights', False, torch.float64, SINGLE, 1e-5),
    Check('float32', False, torch.float32, SINGLE, 1e-4),
)
HEADROOM = 10
MAX_ROUNDING = 0.1  # no comparison is meaningful where float32 itself changes the network by more than this
WEIGHT_TOLERANCE = 16 * SINGLE  # fusing and storing one number takes fewer roundings


@dataclass(frozen=True)
class Deviation:
    """How far a converted model's output is from the original's: one check on one input."""

    check: str  # 'algebra', 'weights' or 'float32': see CHECKS
    input_size: list[int]  # [H, W]
    max_abs: float
    max_rel: float  # max_abs over the largest magnitude of the original's output
    agreement: float  # share of pixels (or images) that get the same class
    rounding: float  # the same as max_rel, of the original in float32 from itself in float64
    allowed: float  # what max_rel may be


def require_blocks(model: nn.Module) -> None:
    """Check that `model` contains a RepVGG block.

    Raises:
        ValueError: it contains none.
    """
    if not _fusers(model):
        raise ValueError(f'{type(model).__name__} contains no RepVGG block: there is nothing to convert')


def _fusers(model: nn.Module) -> list[Callable[[], object]]:
    """Return what fuses the branches of each block of `model`, by the name that its library gives it.

    Ours, the authors' and mmpretrain's blocks have `switch_to_deploy`; timm's, segmentation_models.pytorch's and
    MobileOne's have `reparameterize`.
    """
    found = (
        getattr(module, 'switch_to_deploy', None) or getattr(module, 'reparameterize', None)
        for module in model.modules()
    )
    return [fuse for fuse in found if callable(fuse)]


def is_deployed(model: nn.Module) -> bool:
    """Tell whether `model` is in its deployed form: it has RepVGG blocks, and each is fused, wherever it is."""
    blocks = [module for module in model.modules() if isinstance(module, RepVGGBlock)]
    return bool(blocks) and all(block.deploy for block in blocks)


def switch_to_deploy(model: Model, *, inplace: bool = False) -> Model:
    """Return `model` in eval mode with every RepVGG block fused to one 3x3 convolution.

    Works on any module that contains RepVGG blocks, also those of timm, segmentation_models.pytorch (with MobileOne's)
    and mmpretrain, which fuse themselves; RepVGGplus loses its auxiliary classifiers. Blocks that are deployed already
    stay as they are. Quantized convolutions take in the norms behind them, too. Compare outputs in eval mode only:
    batch statistics of a training batch are not part of the fused function.

    Raises:
        ValueError: `model` contains no RepVGG block, or a norm without running statistics.
    """
    require_blocks(model)
    model = model if inplace else copy.deepcopy(model)
    for fuse in _fusers(model):
        fuse()
    for module in model.modules():
        block: Any = module
        if 'branch_reparam' in block._modules and getattr(block, 'se_layer', None) is not None:
            # mmpretrain's deployed block forgets its squeeze-and-excitation, which stands before the activation.
            block.act, block.se_layer = nn.Sequential(block.se_layer, block.act), None
    return fold_norms(model, inplace=True, kind=QuantizedConv2d)


def convert_segmentor(segmentor: Model, *, inplace: bool = False) -> Model:
    """Return `segmentor`, or a copy of it, deployed: eval mode, no auxiliary head, every RepVGG block fused.

    The blocks may be in the backbone, the neck or the decode head.

    Raises:
        ValueError: as `switch_to_deploy`.
    """
    converted = switch_to_deploy(segmentor, inplace=inplace)
    if getattr(converted, 'auxiliary_head', None) is not None:
        del converted.auxiliary_head
    return converted


def verify_segmentor(
    original: nn.Module, converted: nn.Module, sizes: Sequence[tuple[int, int]] = VERIFY_SIZES
) -> list[Deviation]:
    """Prove on the inference graph that `converted` is the same function as `original`; both stay unchanged.

    Runs CHECKS on synthetic images of `sizes` (H, W): the algebra of the fusion in float64, then the weights that
    `converted` holds, one by one against those fused in float64, then what they compute in float64 and in float32
    arithmetic. The original runs with all its norms, the converted one with those of neck and head folded too, as it
    will be exported. Networks that amplify rounding are measured: see CHECKS. Of quantized networks it is the function
    without the rounding to 8 bits; see `verify_quantized`.

    Raises:
        VerificationError: a deviation is above what is allowed, or an output is not finite.
    """

    def outputs(segmentor: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        graph = InferenceGraph(segmentor)
        scores, size = graph.scores(images), (images.shape[1], images.shape[2])
        return graph.enlarged(scores, size), graph.classes(scores, size)

    channels = InferenceGraph(original).channels
    models = without_rounding(original), without_rounding(converted)
    return _verify(*models, [synthetic_images(size, channels) for size in sizes], outputs)


@torch.no_grad()
def verify_quantized(
    original: nn.Module, converted: nn.Module, sizes: Sequence[tuple[int, int]] = VERIFY_SIZES
) -> dict[str, float]:
    """Prove that `converted`, whose kernels are rounded, computes with its rounding what `original` does with its own.

    A value that lies between two steps may fall to either side, and moves those behind it. So there is no limit to a
    single logit, but `MIN_QUANTIZED_AGREEMENT` of the classes must agree.

    Raises:
        VerificationError: they do not.
    """
    equal, pixels, largest = 0, 0, 0.0
    for size in sizes:
        images = synthetic_images(size, InferenceGraph(original).channels)
        before, after = (InferenceGraph(model.eval()) for model in (original, converted))
        one, other = before.logits(images), after.logits(images)
        largest = max(largest, _max_rel(other, one)[1])
        same = before.classes(one) == after.classes(other)
        equal, pixels = equal + int(same.sum()), pixels + same.numel()
    found = {'agreement': equal / pixels, 'max_rel': largest}
    if not found['agreement'] >= MIN_QUANTIZED_AGREEMENT:
        raise VerificationError(
            f'the rounded model is not equal to the one that was trained: {found["agreement"]:.2%} of the classes '
            f'agree, and {MIN_QUANTIZED_AGREEMENT:.1%} must. Nothing was written.'
        )
    return found


def verify_classifier(
    original: nn.Module, converted: nn.Module, sizes: Sequence[tuple[int, int]] = VERIFY_SIZES
) -> list[Deviation]:
    """Prove that `converted`, a classifier or a trunk's classifier, is the same function; see `verify_segmentor`.

    Raises:
        VerificationError: a deviation is above what is allowed, or an output is not finite.
    """

    def outputs(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        x = images.permute(0, 3, 1, 2).to(next(model.parameters()).dtype)
        logits = model((x - 116) / 57)
        return logits, logits.argmax(1)

    channels = input_channels(original)
    return _verify(original, converted, [synthetic_images(size, channels) for size in sizes], outputs)


@torch.no_grad()
def _verify(
    original: nn.Module,
    converted: nn.Module,
    inputs: Sequence[Tensor],
    outputs: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]],
) -> list[Deviation]:
    def run(model: nn.Module, dtype: torch.dtype) -> list[tuple[Tensor, Tensor]]:
        model = _copied(model, dtype)
        return [outputs(model, images) for images in inputs]

    references = {dtype: run(original, dtype) for dtype in (torch.float64, torch.float32)}
    roundings = [
        _max_rel(single, double)[1]
        for (single, _), (double, _) in zip(references[torch.float32], references[torch.float64], strict=True)
    ]
    deviations: list[Deviation] = []
    for check in CHECKS:
        if check.name == 'weights':
            _require_weights(original, converted)
        model = switch_to_deploy(_copied(original, check.dtype), inplace=True) if check.fuse else converted
        results = run(fold_norms(model), check.dtype)
        for images, reference, result, rounding in zip(
            inputs, references[check.dtype], results, roundings, strict=True
        ):
            deviations.append(_compare(check, images, reference, result, rounding))
    return deviations


def _copied(model: nn.Module, dtype: torch.dtype) -> nn.Module:
    # On the CPU, whose float32 is float32 (GPUs may round products to TF32) and where float64 always exists.
    return copy.deepcopy(model).cpu().to(dtype).eval()


def _max_rel(result: Tensor, reference: Tensor) -> tuple[float, float]:
    """Return the largest deviation, and the same over the largest magnitude of the reference."""
    max_abs = (reference - result).abs().max().item()
    return max_abs, max_abs / (reference.abs().max().item() or 1.0)


def _compare(
    check: Check, images: Tensor, reference: tuple[Tensor, Tensor], result: tuple[Tensor, Tensor], rounding: float
) -> Deviation:
    """Return how far `result`, logits and classes, is from `reference`.

    Raises:
        VerificationError: further than is allowed.
    """
    max_abs, max_rel = _max_rel(result[0], reference[0])
    explained = HEADROOM * rounding * check.unit / SINGLE
    deviation = Deviation(
        check=check.name,
        input_size=list(images.shape[1:3]),
        max_abs=max_abs,
        max_rel=max_rel,
        agreement=(reference[1] == result[1]).double().mean().item(),
        rounding=rounding,
        allowed=max(check.max_rel, explained) if rounding <= MAX_ROUNDING else check.max_rel,
    )
    enough = deviation.allowed > check.max_rel or check.dtype == torch.float32 or deviation.agreement >= MIN_AGREEMENT
    if not (max_rel <= deviation.allowed and enough):  # written so that NaN fails
        raise VerificationError(
            f'the converted model is not equal to the original (check {check.name!r}, input '
            f'{images.shape[1]}x{images.shape[2]}): the largest relative deviation is {max_rel:.3g}, where '
            f'{deviation.allowed:.3g} is allowed, as float32 changes the original itself by {rounding:.3g}, and '
            f'{deviation.agreement:.4%} of the classes agree. Nothing was written. Check the checkpoint for NaN or '
            'infinite values and for negative variances.'
        )
    return deviation


def _require_weights(original: nn.Module, converted: nn.Module) -> None:
    """Check that each number in `converted` is the one that fusing `original` in float64 gives, but for its rounding.

    Rounding is relative to the terms that a number is the sum of, which may cancel: fusing a network of their
    magnitudes adds these up. No depth amplifies anything here, so a fault of one channel is seen in any network.

    Raises:
        VerificationError: one is not.
    """
    exact, magnitudes = (_copied(original, torch.float64) for _ in range(2))
    for name, value in [*magnitudes.named_parameters(), *magnitudes.named_buffers()]:
        if value.is_floating_point():
            value.abs_()
        if name.endswith('running_mean'):  # which is subtracted
            value.neg_()
    expected, largest = (switch_to_deploy(model, inplace=True).state_dict() for model in (exact, magnitudes))
    for name, value in converted.state_dict().items():
        tolerance = WEIGHT_TOLERANCE * largest[name].abs() + torch.finfo(torch.float32).tiny
        excess = ((value.cpu() - expected[name]).abs() / tolerance).max().item()
        if not excess <= 1:  # written so that NaN fails
            raise VerificationError(
                f"the converted model is not equal to the original (check 'weights'): {name} is {excess:.3g} times as "
                'far from what float64 gives as rounding explains. Nothing was written.'
            )


def synthetic_images(size: tuple[int, int], channels: int = 3) -> Tensor:
    """Return one smooth and one noisy image, uint8 (2, H, W, channels), the same in every run."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, channels, 6, 9, generator=generator)
    smooth = nn.functional.interpolate(coarse, size, mode='bicubic', align_corners=False).clamp(0, 1)
    noise = torch.rand(1, channels, *size, generator=generator)
    return (torch.cat([smooth, noise]) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def convert_classifier_checkpoint(arch: str, source: str | Path, out_dir: str | Path) -> dict[str, Any]:
    """Write `deploy.pth` and `report.json` for the ImageNet classifier `arch` to `out_dir` and return the report.

    `deploy.pth` loads with `RepVGGClassifier(arch, num_classes, deploy=True).load_state_dict(...['state_dict'])`.

    Raises:
        ValueError: `arch` is unknown, the weights don't fit it, or the two forms are not equal. Nothing has been
            written then.
    """
    get_variant(arch)
    checkpoint = Checkpoint.read(source)
    path, weights = checkpoint.path, read_weights(checkpoint)
    if 'linear.weight' not in weights:
        raise ValueError(f'{path} has no classifier (linear.weight): convert a trunk in Python with switch_to_deploy')
    num_classes = weights['linear.weight'].shape[0]
    original = load_weights(RepVGGClassifier(arch, num_classes), checkpoint).eval()
    converted = switch_to_deploy(original)
    deviations = verify_classifier(original, converted)
    RepVGGClassifier(arch, num_classes, deploy=True).load_state_dict(converted.state_dict())
    folder = make_folder(out_dir)
    meta = {'arch': arch, 'num_classes': num_classes}
    return write_deployed(folder, original, converted, deviations, model=arch, source=path, meta=meta)


def make_folder(path: str | Path) -> Path:
    """Make the folder `path` if need be and return it.

    Raises:
        ValueError: it cannot be made.
    """
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f'{path} cannot be made a folder ({error.strerror}): choose another') from error
    return Path(path)


def write_deployed(
    folder: Path,
    original: nn.Module,
    converted: nn.Module,
    deviations: Sequence[Deviation],
    *,
    model: str,
    source: Path,
    meta: dict[str, Any],
    config: str | None = None,
    options: dict[str, Any] | None = None,
    rounded: dict[str, float] | None = None,
) -> dict[str, Any]:
    """Write the verified weights, the `config` of a segmentor and their report into `folder`; return the report.

    The old report is removed first and the new one is written last, with the hashes of the other files: after an
    interruption no report lies beside files that it does not describe. Another process that writes this folder waits.
    """
    with one_at_a_time(folder / 'report.json'):
        weights = folder / 'deploy.pth'
        (folder / 'report.json').unlink(missing_ok=True)
        write_checkpoint({'meta': meta, 'state_dict': converted.state_dict()}, weights)
        if config is not None:
            write_text(config, folder / 'deploy.py')
        report = {
            'model': model,
            'options': options or {},  # that changed its config
            'source': {'file': source.name, 'bytes': source.stat().st_size, 'sha256': sha256(source)},
            'deployed': {'file': weights.name, 'bytes': weights.stat().st_size, 'sha256': sha256(weights)},
            **({} if config is None else {'config': {'file': 'deploy.py', 'sha256': sha256(folder / 'deploy.py')}}),
            'parameters': {
                'train': sum(p.numel() for p in original.parameters()),
                'deploy': sum(p.numel() for p in converted.parameters()),
            },
            'verification': [asdict(deviation) for deviation in deviations],
            'rounded': rounded,  # of a quantized network, see verify_quantized
            # How many times larger one rounding of float32 comes out in the original's own logits.
            'amplification': max(deviation.rounding for deviation in deviations) / SINGLE,
            'created': datetime.now(timezone.utc).isoformat(timespec='seconds'),
            'versions': {'python': platform.python_version(), **versions()},
        }
        write_text(json.dumps(report, indent=2) + '\n', folder / 'report.json')
    return report
