"""A small graph that every runtime computes exactly, its exported files, and images for it."""

from __future__ import annotations

import functools
from dataclasses import replace
from pathlib import Path

import numpy as np
import openvino
import torch
import torch.nn.functional as F
from openvino.preprocess import PrePostProcessor
from torch import Tensor, nn

from repvgg_seg.runtime.metadata import ARCHIVE_NAME, KEY, ModelMetadata, Preparation

METADATA = ModelMetadata(
    classes=('road', 'tree', 'car', 'sky'),
    palette=((128, 64, 128), (107, 142, 35), (0, 0, 142), (70, 130, 180)),
    batch=1,
    size=(64, 96),
    output='classes',
    precision='fp32',
    threshold=None,
    align_corners=False,
    preparation=Preparation(),
    fit='tile',
    source={'file': 'deploy.pth', 'sha256': 'ab' * 32},
    versions={'torch': '2.15.0'},
    created='2026-11-26T12:00:00+00:00',
)


class LocalGraph(nn.Module):
    """A graph of stride 4 that sees 10 pixels around each, in numbers that float32 holds exactly.

    Its weights are whole, and the enlargement's are 64ths; the biases, 1024ths, keep two classes from ever being equal.
    """

    def __init__(self, classes: int = 4, output: str = 'classes') -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.output = output
        self.dtype = torch.uint8 if classes <= 256 else torch.uint16
        self.stem = nn.Conv2d(3, 4, 3, stride=4, padding=1, bias=False)
        self.head = nn.Conv2d(4, classes, 3, padding=1)
        with torch.no_grad():
            for conv in (self.stem, self.head):
                conv.weight.copy_(torch.randint(-1, 2, conv.weight.shape, generator=generator))
            self.head.bias.copy_(torch.arange(classes) / 1024)

    def forward(self, images: Tensor) -> Tensor:  # (N, H, W, 3) -> (N, H, W) or (N, classes, H, W)
        x = torch.floor(images.permute(0, 3, 1, 2).float() / 16)
        logits = F.interpolate(self.head(self.stem(x)), scale_factor=4, mode='bilinear')
        return logits if self.output == 'logits' else logits.argmax(1).to(self.dtype)


def images(height: int, width: int, number: int = 1) -> np.ndarray:
    """Return smooth coloured noise (number, height, width, 3), uint8."""
    noise = torch.rand(number, 3, height // 8 + 2, width // 8 + 2, generator=torch.Generator().manual_seed(1))
    smooth = F.interpolate(noise, (height, width), mode='bilinear') * 255
    return smooth.permute(0, 2, 3, 1).to(torch.uint8).contiguous().numpy()


@torch.no_grad()
def truth(image: np.ndarray, graph: nn.Module | None = None) -> np.ndarray:
    """Return what the graph makes of a whole image."""
    return (graph or LocalGraph())(torch.from_numpy(image[None]))[0].numpy()


def local_logits(image: np.ndarray) -> Tensor:
    """Return the logits (classes, H, W) of a whole image."""
    with torch.no_grad():
        return LocalGraph(output='logits')(torch.from_numpy(image[None]))[0]


@functools.cache
def in_openvino(classes: int, output: str) -> openvino.Model:
    """Return `LocalGraph` for any number of images; converting takes a second."""
    graph = LocalGraph(classes, output).eval()
    graph.dtype = torch.int32  # OpenVINO does not know torch's uint16
    example = torch.zeros((1, *METADATA.size, 3), dtype=torch.uint8)
    ends = PrePostProcessor(openvino.convert_model(graph, example_input=example, input=[-1, *METADATA.size, 3]))
    if output == 'classes':
        ends.output().tensor().set_element_type(openvino.Type.u8 if classes <= 256 else openvino.Type.u16)
    return ends.build()


def to_openvino(path: Path, metadata: ModelMetadata) -> Path:
    """Write `LocalGraph` as an .xml file of these facts."""
    model = in_openvino(len(metadata.classes), metadata.output).clone()
    model.reshape([metadata.batch or -1, *metadata.size, 3])
    model.set_rt_info(metadata.to_json(), KEY)
    openvino.save_model(model, path, compress_to_fp16=False)
    return path


def export(folder: Path) -> dict[str, Path]:
    """Write `LocalGraph` for one image of 64x96 in every format: suffix -> file."""
    graph, example = LocalGraph().eval(), torch.zeros(1, *METADATA.size, 3, dtype=torch.uint8)
    program = torch.export.export(graph, (example,))
    torch.export.save(program, folder / 'local.pt2', extra_files={ARCHIVE_NAME: METADATA.to_json()})
    onnx = torch.onnx.export(program, dynamo=True, verbose=False)
    onnx.model.metadata_props[KEY] = METADATA.to_json()
    onnx.save(folder / 'local.onnx')
    to_openvino(folder / 'local.xml', METADATA)
    return {path.suffix: path for path in folder.iterdir()}


def export_many_classes(folder: Path) -> Path:
    """Write a graph of 300 classes, for any number of images."""
    metadata = replace(
        METADATA,
        classes=tuple(f'class {n}' for n in range(300)),
        palette=tuple((n % 256, n // 2, n // 256) for n in range(300)),
        batch=None,
        source={'file': 'many.pth', 'sha256': 'cd' * 32},
    )
    return to_openvino(folder / 'many.xml', metadata)
