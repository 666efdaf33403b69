"""Plain against folded heads: inference and training, on each runtime and in each precision that is installed."""

from __future__ import annotations

import argparse
import copy
import functools
import importlib.util
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from mmengine.config import Config
from mmengine.structures import PixelData
from mmseg.structures import SegDataSample
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from ..apps.config import build_segmentor, load_config
from ..cli import image_size
from ..deploy.convert import convert_segmentor
from ..deploy.graph import InferenceGraph
from ..models.variants import get_variant
from ..openmmlab.heads import fold_heads, unfolded
from ..runtime.backends import openvino_core
from ..runtime.precision import PRECISIONS
from .machine import describe_machine, gemm_peak
from .timing import measure_latency

DTYPES = {'float32': torch.float32, 'bfloat16': torch.bfloat16}
RUNTIMES = (
    'torch float32', 'torch bfloat16', 'openvino float32', 'openvino bfloat16', 'openvino int8', 'onnxruntime float32'
)  # fmt: skip
CALIBRATION_IMAGES = 4  # of noise: enough to time int8 arithmetic


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options of `tools/benchmark.py heads`."""
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='configs of segmentors with a PSP or UPer head')
    parser.add_argument('--arch', help='another backbone in all of them, such as RepVGG-A0')
    parser.add_argument('--channels', type=int, help='another width of the decode head in all of them')
    parser.add_argument('--size', type=image_size, default=(512, 1024), metavar='HxW', help='input size (512x1024)')
    parser.add_argument('--train-size', type=image_size, default=(256, 512), metavar='HxW', help='crop size (256x512)')
    parser.add_argument('--train-batch', type=int, default=2, help='images of a training step, 0: no training (2)')
    parser.add_argument('--runtimes', type=_names, default=RUNTIMES, help=f'those to time ({", ".join(RUNTIMES)})')
    parser.add_argument('--runs', type=int, default=5, help='counted runs of each form (default: 5)')


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(','))
    if unknown := set(names) - set(RUNTIMES):
        raise argparse.ArgumentTypeError(f'{", ".join(sorted(unknown))}: choose among {", ".join(RUNTIMES)}')
    return names


def run(args: argparse.Namespace) -> dict[str, Any]:
    """Time what the command line asks for.

    Raises:
        ValueError: a config has no head that can be folded, or there is nothing to time.
    """
    if min(*args.size, *args.train_size, args.runs) < 1 or args.train_batch < 0:
        raise ValueError('sizes and --runs start at 1, --train-batch at 0')
    runtimes = [name for name in args.runtimes if importlib.util.find_spec(name.split()[0])]
    if not importlib.util.find_spec('nncf'):
        runtimes = [name for name in runtimes if name != 'openvino int8']
    if not torch.cuda.is_available() and not PRECISIONS['bf16'].fast_on_this_cpu():
        runtimes = [name for name in runtimes if not name.endswith('bfloat16')]
    if not runtimes:
        raise ValueError(f'there is nothing to time: none of {", ".join(args.runtimes)} runs here; see --runtimes')
    peaks = {str(dtype).removeprefix('torch.'): peak for dtype, peak in gemm_peak(list(DTYPES.values())).items()}
    results = []
    for config in args.configs:
        forms = build_forms(load_config(config), arch=args.arch, channels=args.channels)
        subjects = _inference(forms, args.size)
        for what, (modules, inputs) in subjects.items():
            entry = {'config': Path(config).name, 'what': what, **_count(modules, inputs)}
            entry['input'] = [list(x.shape) for x in inputs]
            entry['runtimes'] = {
                name: _compare(
                    {form: _prepare(name, module, inputs) for form, module in modules.items()},
                    args.runs, entry['gflop'], peaks.get(name.split()[1]),
                )
                for name in runtimes
            }  # fmt: skip
            results.append(entry)
        if args.train_batch:
            results.append(_training(forms, config, args, runtimes, peaks))
    return {
        'results': results,
        'gemm_peak_gflops': peaks,
        **describe_machine('openvino', 'nncf', 'onnxruntime', 'onedl-mmsegmentation'),
    }


def build_forms(cfg: Config, *, arch: str | None = None, channels: int | None = None) -> dict[str, nn.Module]:
    """Return the segmentor of `cfg`, random weights, with its plain and with its folded heads.

    Raises:
        ValueError: it has no head that can be folded, or `arch` is unknown.
    """
    cfg = unfolded(cfg)
    heads = [head for head in (cfg.model.decode_head, cfg.model.get('auxiliary_head')) if head]
    if arch:
        widths = get_variant(arch).channels[1:]
        cfg.model.backbone.arch = arch
        for head in heads:
            index = head.in_index
            head.in_channels = widths[index] if isinstance(index, int) else [widths[i] for i in index]
    if channels:
        cfg.model.decode_head.channels = channels
    plain = build_segmentor(cfg)
    folded = copy.deepcopy(plain)
    if not any(report.folded for report in fold_heads(folded)):
        raise ValueError(f'{cfg.filename} has no PSP or UPer head to fold')
    return {'plain': plain, 'folded': folded}


class _Head(nn.Module):
    """A decode head that takes the maps it reads, and no others, one by one."""

    def __init__(self, head: Any) -> None:
        super().__init__()
        self.head = head
        self.indices = [head.in_index] if isinstance(head.in_index, int) else list(head.in_index)

    def forward(self, *maps: Tensor) -> Tensor:
        return self.head(dict(zip(self.indices, maps, strict=True)))


def _inference(
    forms: dict[str, nn.Module], size: tuple[int, int]
) -> dict[str, tuple[dict[str, nn.Module], list[Tensor]]]:
    """Return what is timed in inference: modules and their inputs, the deployed network and its head alone."""
    deployed = {form: convert_segmentor(segmentor) for form, segmentor in forms.items()}
    images = torch.randint(0, 256, (1, *size, 3), dtype=torch.uint8)
    plain: Any = deployed['plain']
    maps = copy.deepcopy(plain.backbone).to('meta')(torch.empty(1, 3, *size, device='meta'))
    heads: dict[str, Any] = {form: _Head(segmentor.decode_head).eval() for form, segmentor in deployed.items()}
    return {
        'network': ({form: InferenceGraph(segmentor).eval() for form, segmentor in deployed.items()}, [images]),
        'head': (heads, [torch.rand(maps[i].shape) for i in heads['plain'].indices]),
    }


def _count(modules: dict[str, nn.Module], inputs: Sequence[Tensor]) -> dict[str, Any]:
    """Return the GFLOP of each form: convolutions and matrix products, a product and its sum being two."""
    gflop = {}
    for form, module in modules.items():
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            copy.deepcopy(module).to('meta')(*(x.to('meta') for x in inputs))
        gflop[form] = counter.get_total_flops() / 1e9
    return {'gflop': gflop}


def _prepare(runtime: str, module: nn.Module, inputs: Sequence[Tensor]) -> Callable[[], Any]:
    """Return a call of `module` on `inputs` in `runtime`."""
    name, precision = runtime.split()
    if name == 'torch':
        dtype = DTYPES[precision]
        module = copy.deepcopy(module).to(dtype).to(memory_format=torch.channels_last)
        args = [_channels_last(x.to(dtype)) if x.is_floating_point() else x for x in inputs]
        return torch.inference_mode()(functools.partial(module, *args))
    arrays = [x.numpy() for x in inputs]
    if name == 'onnxruntime':
        import onnxruntime

        program: Any = torch.onnx.export(module, tuple(inputs), dynamo=True, verbose=False)
        model = program.model_proto.SerializeToString()
        session = onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])
        feed = {x.name: array for x, array in zip(session.get_inputs(), arrays, strict=True)}
        return functools.partial(session.run, None, feed)
    import openvino

    with torch.no_grad():
        model = openvino.convert_model(torch.export.export(module, tuple(inputs)))
    if precision == 'int8':
        model = _quantize(model, inputs)
    hint = {'float32': 'f32', 'bfloat16': 'bf16', 'int8': 'bf16'}[precision]
    compiled = openvino_core().compile_model(
        model, 'CPU', {'INFERENCE_PRECISION_HINT': hint, 'PERFORMANCE_HINT': 'LATENCY'}
    )
    return functools.partial(compiled.create_infer_request().infer, dict(enumerate(arrays)))


def _quantize(model: Any, inputs: Sequence[Tensor]) -> Any:
    import nncf

    nncf.set_log_level(logging.ERROR)
    items = []
    for _ in range(CALIBRATION_IMAGES):
        noise = [torch.rand(x.shape) if x.is_floating_point() else torch.randint_like(x, 256) for x in inputs]
        items.append({i: x.numpy() for i, x in enumerate(noise)})
    return nncf.quantize(model, nncf.Dataset(items), subset_size=len(items))


def _channels_last(x: Tensor) -> Tensor:
    return x.to(memory_format=torch.channels_last)


def _compare(
    candidates: Mapping[str, Callable[[], Any]], runs: int, gflop: Mapping[str, float], peak: float | None
) -> dict[str, Any]:
    latencies = measure_latency(candidates, runs=runs)
    result: dict[str, Any] = {form: asdict(latency) for form, latency in latencies.items()}
    result['speedup'] = latencies['plain'].p50_ms / latencies['folded'].p50_ms
    if peak:
        result['share_of_peak'] = {form: gflop[form] / latencies[form].p50_ms * 1e3 / peak for form in candidates}
    return result


def _training(
    forms: Mapping[str, Any], config: str, args: argparse.Namespace, runtimes: Sequence[str], peaks: Mapping[str, float]
) -> dict[str, Any]:
    """Time a step of SGD with mmseg's own loss: forward, backward and update, channels_last."""
    batch, (height, width) = args.train_batch, args.train_size
    images = _channels_last(torch.rand(batch, 3, height, width))
    classes = forms['plain'].decode_head.num_classes
    labels = torch.randint(0, classes, (batch, 1, height, width))
    samples = [SegDataSample(gt_sem_seg=PixelData(data=label)) for label in labels]

    def step(
        model: Any, optimizer: torch.optim.Optimizer, dtype: torch.dtype, images: Tensor, samples: list[Any]
    ) -> None:
        with torch.autocast('cpu', dtype, enabled=dtype is not torch.float32):
            loss, _ = model.parse_losses(model.loss(images, samples))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    gflop, timed = {}, {}
    for runtime in [name for name in runtimes if name.startswith('torch')]:
        precision = runtime.split()[1]
        candidates = {}
        for form, segmentor in forms.items():
            model = copy.deepcopy(segmentor).to(memory_format=torch.channels_last).train()
            optimizer = torch.optim.SGD(model.parameters(), lr=1e-4, momentum=0.9)
            candidates[form] = functools.partial(step, model, optimizer, DTYPES[precision], images, samples)
            if form not in gflop:
                with FlopCounterMode(display=False) as counter:
                    candidates[form]()
                gflop[form] = counter.get_total_flops() / 1e9
        timed[runtime] = _compare(candidates, args.runs, gflop, peaks[precision])
    shape = [[batch, 3, height, width]]
    return {'config': Path(config).name, 'what': 'training step', 'gflop': gflop, 'input': shape, 'runtimes': timed}


def table(data: dict[str, Any]) -> str:
    """Return the result as lines of text."""
    lines = [f'{"":<34}{"plain ms":>10}{"folded ms":>11}{"speed-up":>10}{"share of GEMM peak":>22}']
    for entry in data['results']:
        size = 'x'.join(str(n) for n in entry['input'][0])
        gflop = ' -> '.join(f'{entry["gflop"][form]:.1f}' for form in ('plain', 'folded') if form in entry['gflop'])
        lines.append(f'{entry["config"]}, {entry["what"]}, {size}: {gflop} GFLOP')
        for name, r in entry['runtimes'].items():
            share = r.get('share_of_peak')
            shares = f'{share["plain"]:>14.0%} -> {share["folded"]:.0%}' if share else ''
            lines.append(
                f'  {name:<32}{r["plain"]["p50_ms"]:>10.1f}{r["folded"]["p50_ms"]:>11.1f}{r["speedup"]:>9.2f}x{shares}'
            )
    peaks = ', '.join(f'{name} {peak:.0f} GFLOP/s' for name, peak in data['gemm_peak_gflops'].items())
    versions = ', '.join(f'{name} {version}' for name, version in data['versions'].items())
    return '\n'.join(
        [*lines, f'GEMM peak: {peaks}', f'{data["device"]}, {data["threads"]} threads, {versions}, {data["date"]}']
    )


def plot(data: dict[str, Any], path: str | Path) -> None:
    """Draw the speed-up of each comparison as a bar."""
    from matplotlib.figure import Figure

    rows = [
        (f'{entry["config"].removesuffix(".py")}, {entry["what"]}', name, result['speedup'])
        for entry in data['results']
        for name, result in entry['runtimes'].items()
    ]
    groups = list(dict.fromkeys(group for group, _, _ in rows))
    names = list(dict.fromkeys(name for _, name, _ in rows))
    figure = Figure(figsize=(9, 0.8 + 0.28 * len(rows)), layout='constrained')
    axes = figure.subplots()
    ticks, labels = [], []
    for i, (group, name, speedup) in enumerate(rows):
        y = i + groups.index(group)
        axes.barh(y, speedup, color=f'C{names.index(name)}')
        axes.text(speedup, y, f' {speedup:.2f}x', va='center', fontsize=8)
        ticks.append(y)
        labels.append(name)
        if group not in (g for g, _, _ in rows[:i]):
            axes.text(0, y - 0.75, group, fontsize=8, fontweight='bold', va='center')
    axes.set_yticks(ticks, labels, fontsize=8)
    axes.set_ylim(max(ticks) + 0.7, -1.2)
    axes.axvline(1, color='black', linewidth=0.8)
    axes.set_xlim(0, 1.12 * max(speedup for _, _, speedup in rows))
    axes.set_xlabel('speed-up of the folded over the plain head (1: as fast)')
    axes.spines[['top', 'right']].set_visible(False)
    figure.savefig(path, dpi=110)
