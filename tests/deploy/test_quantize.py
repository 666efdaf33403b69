"""int8: what is quantized, what it costs, and what is refused."""

import json
import re

import nncf
import numpy as np
import openvino
import pytest
import torch

from repvgg_seg import Segmenter
from repvgg_seg.deploy import export, quantize
from repvgg_seg.deploy.convert import convert_segmentor
from repvgg_seg.deploy.export import export_segmentor
from repvgg_seg.deploy.graph import InferenceGraph
from repvgg_seg.deploy.quantize import (
    QUANTIZERS,
    Calibration,
    Comparison,
    QuantizationRefused,
    layers,
    quantize_file,
    sensitivity,
)  # fmt: skip
from repvgg_seg.models.scaled import scale_between_blocks
from repvgg_seg.runtime.backends import open_model
from repvgg_seg.runtime.metadata import KEY
from repvgg_seg.runtime.precision import Precision
from tests.local_graph import METADATA, LocalGraph, images, truth
from tests.segmentors import segmentor

SIZE = (64, 96)
IMAGES = [*images(*SIZE, number=4)]
BATCHES = [image[None] for image in IMAGES]
SOURCE = {'file': 'deploy.pth', 'sha256': 'ab' * 32}

pytestmark = pytest.mark.filterwarnings('ignore:.*computes in int8, for which this CPU has no instructions')


def quantizers(path) -> int:
    return sum(node.kind in QUANTIZERS for node in quantize.FILES[path.suffix](path).nodes())


@pytest.mark.parametrize(('suffix', 'backends'), [('.xml', ['openvino']), ('.onnx', ['onnxruntime', 'openvino'])])
def test_a_quantized_file_runs_like_any_other_and_is_nearly_the_same(
    suffix: str, backends: list[str], local_files, tmp_path
) -> None:
    path, part = tmp_path / f'm{suffix}', tmp_path / f'part{suffix}'
    quantize_file(local_files[suffix], path, BATCHES, weight_bits=7)
    for backend in backends:
        segmenter = Segmenter(path, backend=backend)
        assert segmenter.metadata.precision == 'int8' and segmenter.classes == ('road', 'tree', 'car', 'sky')
        agreement = np.mean([segmenter(image) == truth(image) for image in IMAGES])
        # The kernels, of -1, 0 and 1, are as large as they can be: with 8 bits it is 0.6 without VNNI.
        assert 0.95 < agreement < 1
    # Images, and what is between the two convolutions, and their kernels; nothing behind them.
    nodes = quantize.FILES[suffix](path).nodes()
    tail = quantize.behind_the_network(nodes)
    before = quantize.behind_the_network(quantize.FILES[suffix](local_files[suffix]).nodes())
    assert [node.kind for node in tail] == [node.kind for node in before]
    first, last = layers(quantize.FILES[suffix](local_files[suffix]).nodes())
    quantize_file(local_files[suffix], part, BATCHES, keep_float=[first])
    assert 0 < quantizers(part) < quantizers(path)
    # The logits are those that the classes are of.
    logits_file = quantize.cut(local_files[suffix], tmp_path / f'logits{suffix}')
    _, network = open_model(logits_file, backends[0], 'cpu', 'latency', whole=False)
    ((_, logits),) = network.map([(None, BATCHES[0])])
    with torch.no_grad():
        x = torch.floor(torch.from_numpy(BATCHES[0]).permute(0, 3, 1, 2).float() / 16)
        assert np.allclose(logits, LocalGraph().head(LocalGraph().stem(x)))

    with pytest.raises(ValueError, match='is quantized already: quantize the float32 file'):
        quantize_file(path, tmp_path / f'again{suffix}', BATCHES)
    with pytest.raises(ValueError, match=f"no layer 'conv7' to keep in float: choose from {re.escape(first)}, "):
        quantize_file(local_files[suffix], part, BATCHES, keep_float=['conv7'])
    with pytest.raises(ValueError, match='every layer is to be kept in float'):
        quantize_file(local_files[suffix], part, BATCHES, keep_float=[first, last])


@torch.no_grad()
def varied() -> torch.nn.Module:
    """A deployed segmentor that finds each of its classes in IMAGES."""
    model = convert_segmentor(segmentor())
    logits = InferenceGraph(model).logits(torch.from_numpy(np.stack(IMAGES)))
    last, mean, std = model.decode_head.conv_seg, logits.mean((0, 2, 3)), logits.std((0, 2, 3))
    last.weight /= std[:, None, None, None]
    last.bias.copy_((last.bias - mean) / std)
    return model


def exported(path, model):
    calibration = Calibration(IMAGES, min_agreement=0.85, command='again')
    return export_segmentor(
        model, path, to='openvino', size=SIZE, precision='int8', output='logits', source=SOURCE, calibration=calibration
    )


def test_a_network_that_is_hard_to_quantize_is_refused_and_no_file_is_left(tmp_path) -> None:
    model = varied()
    with torch.no_grad():
        before = InferenceGraph(model).logits(torch.from_numpy(np.stack(IMAGES)))
        scale_between_blocks(model.backbone)
        after = InferenceGraph(model).logits(torch.from_numpy(np.stack(IMAGES)))
    assert (after - before).abs().max() < 1e-3
    with pytest.raises(
        QuantizationRefused, match=r'int8 loses too much and was not written: .*% of the pixels keep'
    ) as error:
        exported(tmp_path / 'm.xml', model)
    assert [path.name for path in tmp_path.iterdir()] == ['m.xml.report.json']
    report = json.loads((tmp_path / 'm.xml.report.json').read_text())
    assert report['refused'] == str(error.value) and report['parity']['agreement'] > 0.9999
    found = report['quantization']
    assert found['agreement'] < 0.7 and found['images'] == 4 and not found['labels']
    ranking = found['sensitivity']
    assert 'decode_head.conv_seg' in ranking and [*ranking.values()] == sorted(ranking.values(), reverse=True)
    worst = found['command'].removeprefix('again --keep-float ').split()
    assert worst == [*ranking][: len(worst)] and 'backbone.stage3.2.rbr_reparam' in worst


def hard_graph() -> LocalGraph:
    """A graph in which one of the channels between the two layers outweighs the others, and takes all the steps."""
    graph = LocalGraph().eval()
    with torch.no_grad():
        graph.stem.weight[0] *= 1000
        graph.head.weight[:, 0] /= 1000
    return graph


def traced(graph: torch.nn.Module) -> torch.fx.GraphModule:
    return torch.export.export(graph, (torch.zeros(1, *SIZE, 3, dtype=torch.uint8),)).module()


def quantized(folder, graph: LocalGraph, **options):
    """Quantize `graph` in `folder`, where it gets the names of its layers."""
    model = openvino.convert_model(graph, example_input=torch.zeros(1, *SIZE, 3, dtype=torch.uint8))
    convolutions = [op for op in model.get_ordered_ops() if op.get_type_name() == 'Convolution']
    for op, name in zip(convolutions, ('stem', 'head'), strict=True):
        op.set_friendly_name(name)
    model.set_rt_info(METADATA.to_json(), [KEY])
    openvino.save_model(model, folder / 'float.xml', compress_to_fp16=False)
    return quantize.quantize(
        folder / 'float.xml',
        folder / 'm.xml',
        Calibration(IMAGES, **options),
        quantize.Batches(lambda: iter(BATCHES)),
        run=lambda path: export._runner(path, 'openvino', whole=False),
        classes=lambda logits: logits.argmax(1),
        program=lambda: traced(graph),
    )


def test_accuracy_control_keeps_the_worst_layer_in_float(tmp_path) -> None:
    report = quantized(tmp_path, hard_graph(), min_agreement=0.95, accuracy_control=True)
    assert report['keep_float'] == ['head'] and report['agreement'] >= 0.95
    assert 0 < report['mean_abs'] < report['max_abs']


class Evaluation:
    """The share of the pixels, in percent, that are as in the float32 network."""

    def __init__(self) -> None:
        self.precisions: list[str] = []

    def __call__(self, path) -> float:
        segmenter = Segmenter(path)
        self.precisions.append(segmenter.metadata.precision)
        return 100 * float(np.mean([segmenter(image) == truth(image) for image in IMAGES]))


@pytest.mark.parametrize(('drop', 'refused'), [(50.0, False), (0.001, True)])
def test_with_labels_the_drop_of_the_miou_decides(drop: float, refused: bool, tmp_path) -> None:
    evaluate = Evaluation()

    def measured():
        return quantized(tmp_path, LocalGraph().eval(), min_agreement=None, evaluate=evaluate, max_drop=drop)

    if refused:
        with pytest.raises(QuantizationRefused, match=r'mIoU 100\.00 becomes 9\d\.\d\d, and 0\.001 points') as error:
            measured()
        assert set(error.value.report['sensitivity']) == {'stem', 'head'}
    else:
        report = measured()
        assert report['labels'] and report['mIoU']['drop'] == report['mIoU']['fp32'] - report['mIoU']['int8'] > 0
    assert evaluate.precisions[0] == 'fp32' and {*evaluate.precisions[1:]} == {'int8'}


@pytest.mark.parametrize(('fast', 'bits'), [(False, 7), (True, 8)])
def test_where_8_bits_may_overflow_7_are_tried(fast: bool, bits: int, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(Precision, 'fast_on_this_cpu', lambda row: fast)
    monkeypatch.setattr(quantize, '_reason', lambda report: 'overflow' if report['weight_bits'] == 8 else '')
    if bits == 7:
        report = quantized(tmp_path, LocalGraph().eval())
        assert report['weight_bits'] == 7 and report['agreement'] > 0.95
    else:
        with pytest.raises(QuantizationRefused, match='overflow') as error:
            quantized(tmp_path, LocalGraph().eval())
        assert error.value.report['weight_bits'] == 8


def test_an_interrupted_calibration_leaves_nothing(tmp_path, monkeypatch) -> None:
    def interrupted(*args, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(nncf, 'quantize', interrupted)
    with pytest.raises(KeyboardInterrupt):
        exported(tmp_path / 'm.xml', convert_segmentor(segmentor()))
    assert not list(tmp_path.iterdir())


def test_what_cannot_be_quantized(tmp_path) -> None:
    parameter = openvino.opset13.parameter([1, 3], np.float32)
    model = openvino.Model([openvino.opset13.relu(parameter)], [parameter])
    model.set_rt_info('{}', [KEY])
    openvino.save_model(model, tmp_path / 'm.xml')
    with pytest.raises(ValueError, match='the model has no convolution: there is nothing to quantize'):
        quantize_file(tmp_path / 'm.xml', tmp_path / 'q.xml', BATCHES)
    model = convert_segmentor(segmentor())
    for to, suffix in (('openvino', 'xml'), ('exported-program', 'pt2')):
        with pytest.raises(
            ValueError, match='int8 needs images' if suffix == 'xml' else "cannot be exported in 'int8'"
        ):
            export_segmentor(model, tmp_path / f'n.{suffix}', to=to, size=SIZE, precision='int8', source=SOURCE)
    for limits, message in ((dict(min_agreement=97), 'share from 0 to 1, and 97'), (dict(max_drop=-1), 'not by -1')):
        with pytest.raises(ValueError, match=message):
            Calibration(IMAGES, **limits)


def test_a_layer_that_needs_more_than_8_bits_is_the_most_sensitive() -> None:
    found = sensitivity(traced(hard_graph()), BATCHES[:2])
    assert [*found] == ['head', 'stem'] and found['head'] > 0.1 > found['stem']


def test_the_deviation_is_of_the_logits_and_the_agreement_of_classes() -> None:
    comparison = Comparison()
    reference = torch.tensor([[[[2.0, 4.0]], [[1.0, 5.0]]]])
    comparison.add(reference + torch.tensor([[[[0.0, 0.0]], [[2.0, 0.0]]]]), reference, lambda x: x.argmax(1))
    assert comparison.summary() == {'agreement': 0.5, 'max_abs': 2.0, 'mean_abs': 0.5, 'max_rel': 0.4}
