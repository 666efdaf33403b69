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
from ..models.block import RepVGGBlock
from ..models.classifier import RepVGGClassifier
from ..models.variants import get_variant
from ..weights.checkpoint_io import write_checkpoint
from ..weights.pretrained import load_weights, read_weights, resolve
from .graph import InferenceGraph, fold_norms

Model = TypeVar('Model', bound=nn.Module)

MIN_AGREEMENT = 0.9999  # of the classes, where the arithmetic is float64 and leaves no ties to rounding
VERIFY_SIZES = ((128, 256), (97, 131))  # (H, W): one that every stride divides, one that none does


class VerificationError(ValueError):
    """The converted model does not compute what the original computes."""


@dataclass(frozen=True)
class Check:
    """One comparison of a converted model with its original."""

    name: str
    fuse: bool  # whether the original is fused anew in `dtype`, or the converted model is taken as it is
    dtype: torch.dtype  # of the arithmetic
    max_rel: float  # what is tolerated


# A right fusion leaves about 1e-15 in float64, a wrong one 1e-2. Stored weights are rounded once, to 6e-8 in float32;
# in float32 arithmetic depth amplifies that to about 1e-6 in a trained network and 1e-5 in a random one.
CHECKS = (
    Check('algebra', True, torch.float64, 1e-10),
    Check('weights', False, torch.float64, 1e-5),
    Check('float32', False, torch.float32, 1e-4),
)


@dataclass(frozen=True)
class Deviation:
    """How far a converted model's output is from the original's: one check on one input."""

    check: str  # 'algebra', 'weights' or 'float32': see CHECKS
    input_size: list[int]  # [H, W]
    max_abs: float
    max_rel: float  # max_abs over the largest magnitude of the original's output
    agreement: float  # share of pixels (or images) that get the same class


def require_blocks(model: nn.Module) -> None:
    """Check that `model` contains a RepVGG block.

    Raises:
        ValueError: it contains none.
    """
    if not any(isinstance(m, RepVGGBlock) for m in model.modules()):
        raise ValueError(f'{type(model).__name__} contains no RepVGG block: there is nothing to convert')


def switch_to_deploy(model: Model, *, inplace: bool = False) -> Model:
    """Return `model` in eval mode with every RepVGG block fused to one 3x3 convolution.

    Works on any module that contains RepVGG blocks; RepVGGplus loses its auxiliary classifiers. Blocks that are
    deployed already stay as they are. Compare outputs in eval mode only: batch statistics of a training batch are
    not part of the fused function.

    Raises:
        ValueError: `model` contains no RepVGG block, or a norm without running statistics.
    """
    require_blocks(model)
    model = model if inplace else copy.deepcopy(model)
    for module in list(model.modules()):
        if isinstance(module, (RepVGGBlock, RepVGGClassifier)):
            module.switch_to_deploy()
    return model.eval()


def convert_segmentor(segmentor: Model) -> Model:
    """Return a deployed copy of `segmentor`: eval mode, no auxiliary head, every RepVGG block fused.

    Raises:
        ValueError: as `switch_to_deploy`.
    """
    converted = switch_to_deploy(segmentor)
    if getattr(converted, 'auxiliary_head', None) is not None:
        del converted.auxiliary_head
    return converted


def verify_segmentor(
    original: nn.Module, converted: nn.Module, sizes: Sequence[tuple[int, int]] = VERIFY_SIZES
) -> list[Deviation]:
    """Prove on the inference graph that `converted` is the same function as `original`; both stay unchanged.

    Runs CHECKS on synthetic images of `sizes` (H, W): the algebra of the fusion in float64, then the weights that
    `converted` holds in float64 and in float32 arithmetic. The original runs with all its norms, the converted one with
    those of neck and head folded too, as it will be exported.

    Raises:
        VerificationError: a deviation is above that of CHECKS, or an output is not finite.
    """

    def outputs(segmentor: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        graph = InferenceGraph(segmentor)
        scores, size = graph.scores(images), (images.shape[1], images.shape[2])
        return graph.enlarged(scores, size), graph.classes(scores, size)

    return _verify(original, converted, [synthetic_images(size) for size in sizes], outputs)


def verify_classifier(
    original: nn.Module, converted: nn.Module, sizes: Sequence[tuple[int, int]] = VERIFY_SIZES
) -> list[Deviation]:
    """Prove that `converted`, a classifier or a trunk's classifier, is the same function; see `verify_segmentor`.

    Raises:
        VerificationError: a deviation is above that of CHECKS, or an output is not finite.
    """

    def outputs(model: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
        x = images.permute(0, 3, 1, 2).to(next(model.parameters()).dtype)
        logits = model((x - 116) / 57)
        return logits, logits.argmax(1)

    return _verify(original, converted, [synthetic_images(size) for size in sizes], outputs)


@torch.no_grad()
def _verify(
    original: nn.Module,
    converted: nn.Module,
    inputs: Sequence[Tensor],
    outputs: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]],
) -> list[Deviation]:
    # A check's copies are freed before those of the next are made.
    return [deviation for check in CHECKS for deviation in _run_check(check, original, converted, inputs, outputs)]


def _run_check(
    check: Check,
    original: nn.Module,
    converted: nn.Module,
    inputs: Sequence[Tensor],
    outputs: Callable[[nn.Module, Tensor], tuple[Tensor, Tensor]],
) -> list[Deviation]:
    deviations = []
    # On the CPU, whose float32 is float32 (GPUs may round products to TF32) and where float64 always exists.
    reference_model = copy.deepcopy(original).cpu().to(check.dtype).eval()
    model = switch_to_deploy(reference_model) if check.fuse else copy.deepcopy(converted).cpu()
    model = fold_norms(model).to(check.dtype)
    for images in inputs:
        reference, reference_classes = outputs(reference_model, images)
        result, result_classes = outputs(model, images)
        max_abs = (reference - result).abs().max().item()
        deviation = Deviation(
            check=check.name,
            input_size=list(images.shape[1:3]),
            max_abs=max_abs,
            max_rel=max_abs / (reference.abs().max().item() or 1.0),
            agreement=(reference_classes == result_classes).double().mean().item(),
        )
        deviations.append(deviation)
        enough = check.dtype != torch.float64 or deviation.agreement >= MIN_AGREEMENT
        if not (deviation.max_rel <= check.max_rel and enough):  # written so that NaN fails
            raise VerificationError(
                f'the converted model is not equal to the original (check {check.name!r}, input '
                f'{images.shape[1]}x{images.shape[2]}): the largest relative deviation is {deviation.max_rel:.3g}, '
                f'where {check.max_rel:g} is allowed, and {deviation.agreement:.4%} of the classes agree. Nothing '
                'was written. Check the checkpoint for NaN or infinite values and for negative variances; a net '
                'that has hardly trained, whose statistics do not fit its activations yet, can amplify rounding so.'
            )
    return deviations


def synthetic_images(size: tuple[int, int]) -> Tensor:
    """Return one smooth and one noisy image, uint8 (2, H, W, 3), the same in every run."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 6, 9, generator=generator)
    smooth = nn.functional.interpolate(coarse, size, mode='bicubic', align_corners=False).clamp(0, 1)
    noise = torch.rand(1, 3, *size, generator=generator)
    return (torch.cat([smooth, noise]) * 255).round().to(torch.uint8).permute(0, 2, 3, 1)


def convert_checkpoint(arch: str, source: str | Path, out_dir: str | Path) -> dict[str, Any]:
    """Write `deploy.pth` and `report.json` for the ImageNet classifier `arch` to `out_dir` and return the report.

    `deploy.pth` loads with `RepVGGClassifier(arch, num_classes, deploy=True).load_state_dict(...['state_dict'])`.

    Raises:
        ValueError: `arch` is unknown, the weights don't fit it, or the two forms are not equal. Nothing has been
            written then.
    """
    get_variant(arch)
    path = resolve(source)
    weights = read_weights(path)
    if 'linear.weight' not in weights:
        raise ValueError(f'{path} has no classifier (linear.weight): convert a trunk in Python with switch_to_deploy')
    num_classes = weights['linear.weight'].shape[0]
    original = load_weights(RepVGGClassifier(arch, num_classes), path).eval()
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
) -> dict[str, Any]:
    """Write the verified weights and their report into `folder` and return the report."""
    weights = folder / 'deploy.pth'
    write_checkpoint({'meta': meta, 'state_dict': converted.state_dict()}, weights)
    report = {
        'model': model,
        'source': {'file': source.name, 'bytes': source.stat().st_size, 'sha256': sha256(source)},
        'deployed': {'file': weights.name, 'bytes': weights.stat().st_size, 'sha256': sha256(weights)},
        'parameters': {
            'train': sum(p.numel() for p in original.parameters()),
            'deploy': sum(p.numel() for p in converted.parameters()),
        },
        'verification': [asdict(deviation) for deviation in deviations],
        'created': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        'versions': {'python': platform.python_version(), **versions()},
    }
    write_text(json.dumps(report, indent=2) + '\n', folder / 'report.json')
    return report
