"""Each kind of file makes the class map that the dense form makes, though its shapes depend on the data."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from repvgg_seg.deploy.export import TARGETS
from repvgg_seg.deploy.graph import InferenceGraph
from repvgg_seg.models import class_map as module
from repvgg_seg.runtime.backends import open_model
from tests.local_graph import METADATA, images


class Head(nn.Conv2d):
    """Whole numbers from every eighth pixel, which all runtimes compute alike."""

    threshold = None

    def __init__(self, classes: int, align_corners: bool) -> None:
        super().__init__(3, classes, 1, stride=8)
        self.align_corners = align_corners
        with torch.no_grad():
            self.weight.copy_(torch.randint(-3, 4, self.weight.shape))
            self.bias.copy_(torch.randint(-3, 4, self.bias.shape))

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(torch.floor(x / 16))


def graph(classes: int, align_corners: bool, resize_to: tuple[int, int] | None) -> InferenceGraph:
    """Return the inference graph of a segmentor that is a head only."""
    segmentor = nn.Module()
    segmentor.decode_head, segmentor.backbone = Head(classes, align_corners), nn.Identity()
    segmentor.data_preprocessor = SimpleNamespace(_channel_conversion=True, _enable_normalize=False)
    return InferenceGraph(segmentor, resize_to=resize_to)


CASES = [
    (19, (40, 48), None, False, None),  # cells alike, any number of images
    (5, (41, 49), 1, True, None),
]
SIXTEEN_BITS = (300, (37, 45), 2, False, None)  # and cells of several sizes
TWO_STEPS = (5, (120, 144), 1, False, (40, 48))


@pytest.mark.parametrize(
    ('to', 'classes', 'size', 'batch', 'align_corners', 'resize_to'),
    [*((to, *case) for to in TARGETS for case in CASES), ('openvino', *SIXTEEN_BITS), ('openvino', *TWO_STEPS)],
)
def test_files_make_the_class_map_of_the_dense_form(
    to: str, classes: int, size: tuple, batch: int | None, align_corners: bool, resize_to, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(module, 'ELEMENTS', 2 * classes * size[0] * size[1] // 3)  # two bands
    model = graph(classes, align_corners, resize_to).eval()
    path = tmp_path / f'm{TARGETS[to].suffix}'
    names = {'classes': ('any',) * classes, 'palette': ((0, 0, 0),) * classes}
    TARGETS[to].write(model, path, replace(METADATA, size=size, batch=batch, **names))
    _, opened = open_model(path, TARGETS[to].backend, 'cpu', 'latency', trust=True)
    batches = [torch.from_numpy(images(*size, number)) for number in ([batch] if batch else [1, 3])]
    batches.append(torch.full_like(batches[0], 100))  # one class everywhere: no cell is computed
    for batch_ in batches:
        ((_, result),) = opened.map([(None, batch_.numpy())])
        found = torch.from_numpy(result.astype(int))
        with torch.no_grad():
            logits = model.logits(batch_)
        assert result.dtype == ('uint8' if classes <= 256 else 'uint16') and found.shape == (len(batch_), *size)
        # Where nothing is rounded, the lowest of equal classes wins; elsewhere rounding tells equal ones apart.
        if size == (40, 48):
            assert torch.equal(found, logits.argmax(1))
        assert (logits.amax(1) - logits.gather(1, found[:, None])[:, 0]).max() < 1e-4
    assert len(logits[0, 0].unique()) == 1 and found.unique().numel() == 1  # of the last one


@pytest.mark.parametrize('size', [(40, 48), (37, 45)])
def test_the_graph_compiles(size: tuple[int, int]) -> None:
    model, batch = graph(19, False, None).eval(), torch.from_numpy(images(*size))
    with torch.inference_mode():
        assert torch.equal(torch.compile(model, backend='eager')(batch), model(batch))


@pytest.mark.parametrize('resize_to', [None, (20, 24)])
def test_the_graph_never_enlarges_logits(resize_to, monkeypatch) -> None:
    monkeypatch.setattr(InferenceGraph, 'enlarged', None)
    monkeypatch.setattr(module, 'resize', None)
    assert graph(19, False, resize_to)(torch.from_numpy(images(40, 48))).shape == (1, 40, 48)
