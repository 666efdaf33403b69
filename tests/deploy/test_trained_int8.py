"""Networks trained with fake quantization: what is converted, and what the int8 file computes."""

import copy

import pytest
import torch

from repvgg_seg import Segmenter
from repvgg_seg.deploy import export
from repvgg_seg.deploy.convert import (
    VerificationError,
    convert_segmentor,
    is_deployed,
    verify_quantized,
    verify_segmentor,
)
from repvgg_seg.deploy.export import TARGETS, export_segmentor
from repvgg_seg.deploy.graph import InferenceGraph
from repvgg_seg.deploy.quantize import CONVOLUTIONS, FILES, QUANTIZERS, Calibration
from repvgg_seg.models import folding
from repvgg_seg.models.quantized import fake_quantize, quantizers, round_kernels
from repvgg_seg.runtime.backends import open_model, openvino_core
from repvgg_seg.runtime.precision import Precision
from tests.local_graph import images
from tests.segmentors import segmentor

SIZE = (64, 96)
IMAGES = [*images(*SIZE, number=3)]
SOURCE = {'file': 'deploy.pth', 'sha256': 'ab' * 32}

pytestmark = pytest.mark.filterwarnings('ignore:.*computes in int8, for which this CPU has no instructions')


def trained(bits: int, head: str = 'PSPHead', **options) -> torch.nn.Module:
    """A segmentor with fake quantization that has seen images, and finds each of its classes in them."""
    torch.manual_seed(0)
    model = segmentor(head, **options)
    batch, last = torch.stack([torch.from_numpy(image) for image in IMAGES]), model.decode_head.conv_seg
    with torch.no_grad():
        logits = InferenceGraph(model).logits(batch)
        mean, std = logits.mean((0, 2, 3)), logits.std((0, 2, 3))
        last.weight /= std[:, None, None, None]
        last.bias.copy_((last.bias - mean) / std)
        fake_quantize(model, bits)
        InferenceGraph(model.train()).scores(batch)
    return model.eval()


@pytest.fixture(scope='module')
def converted() -> torch.nn.Module:
    """One of 7 bits, deployed."""
    model = trained(7)
    found = convert_segmentor(model)
    verify_segmentor(model, found, [SIZE])
    assert is_deployed(found) and not [key for key in found.state_dict() if '.bn.' in key]  # of the head, too
    round_kernels(found)
    assert verify_quantized(model, found, [SIZE])['agreement'] > 0.999
    return found


def exported(model, path, to='openvino', precision='int8', **options):
    return export_segmentor(
        model, path, to=to, size=SIZE, precision=precision, output='logits', source=SOURCE, images=IMAGES, **options
    )


def deployed(model) -> torch.nn.Module:
    found = convert_segmentor(model)
    round_kernels(found)
    return found


def deviation(model, path, backend) -> float:
    """The median deviation of the logits of IMAGES from those of torch, relative to the largest.

    A value between two steps may fall to either side, which is a step of one value here and there: not of most.
    """
    _, network = open_model(path, backend, 'cpu', 'latency')
    batches = [(None, image[None]) for image in IMAGES]
    found = torch.cat([torch.from_numpy(logits.copy()) for _, logits in network.map(batches)])
    with torch.no_grad():
        expected = InferenceGraph(model).logits(torch.stack([torch.from_numpy(image) for image in IMAGES]))
    return float((found - expected).abs().median() / expected.abs().max())


def precisions(path) -> dict[str, str]:
    """What OpenVINO computes the convolutions and the products over channels in: name -> type."""
    info = {}
    for op in openvino_core().compile_model(path, 'CPU').get_runtime_model().get_ops():
        facts = op.get_rt_info()
        if facts['layerType'].astype(str) in ('Convolution', 'FullyConnected'):
            info[op.get_friendly_name()] = facts['runtimePrecision'].astype(str)
    return info


@pytest.mark.parametrize(('to', 'suffix'), [('openvino', '.xml'), ('onnx', '.onnx')])
def test_the_int8_file_computes_what_was_trained(to: str, suffix: str, converted, tmp_path) -> None:
    path = tmp_path / f'm{suffix}'
    report = exported(converted, path, to)
    assert report['parity']['agreement'] >= 0.995 and report['metadata']['precision'] == 'int8'
    assert deviation(converted, path, TARGETS[to].backend) < 1e-5
    nodes = FILES[suffix](path).nodes()
    kinds = [node.kind for node in nodes]
    layers = sum(kind in CONVOLUTIONS for kind in kinds)
    assert layers <= len(quantizers(converted)) and sum(kind in QUANTIZERS for kind in kinds) >= layers
    assert any(node.name == 'backbone.stage4.0' or 'stage4.0' in node.name for node in nodes)
    if to == 'openvino':
        found = {name: kind for name, kind in precisions(path).items() if not name.startswith('linear')}
        assert set(found.values()) == {'u8'} and len(found) == len(quantizers(converted))
    assert Segmenter(path).metadata.precision == 'int8'


def test_onnx_runtime_adds_up_kernels_of_8_bits_without_overflow(tmp_path) -> None:
    model = deployed(trained(8))
    exported(model, tmp_path / 'm.onnx', 'onnx')
    assert deviation(model, tmp_path / 'm.onnx', 'onnxruntime') < 1e-5


@pytest.mark.parametrize('quantized', ['trained', 'calibrated'])
def test_a_folded_head_computes_in_int8(quantized: str, tmp_path, monkeypatch) -> None:
    chosen = []

    def pays(weight, small, large, int8=False) -> bool:
        chosen.append(int8)
        return small[0] > 1

    monkeypatch.setattr(folding, 'folding_pays', pays)
    calibration = None
    if quantized == 'trained':
        model = deployed(trained(7, 'FoldedPSPHead'))
    else:
        model, calibration = convert_segmentor(segmentor('FoldedPSPHead')), Calibration(IMAGES, min_agreement=0.5)
    chosen.clear()
    exported(model, tmp_path / 'm.xml', calibration=calibration)
    found = precisions(tmp_path / 'm.xml')
    # Backbone, four pooled maps, what is not folded, and the logits; products of three maps; the logits are enlarged.
    assert len(found) == 8 + 4 + 2 + 3 + 1
    assert [name for name, kind in found.items() if kind != 'u8'] == [
        next(n for n in found if n.startswith('linear_3'))
    ]
    assert any(chosen)


def test_a_float_file_has_the_weights_of_int8_and_rounds_nothing_else(converted, tmp_path) -> None:
    report = exported(converted, tmp_path / 'm.xml', precision='fp32')
    assert report['parity']['max_rel'] < 1e-4
    assert not [node for node in FILES['.xml'](tmp_path / 'm.xml').nodes() if node.kind in QUANTIZERS]


def test_what_is_trained_is_not_calibrated_and_what_differs_is_not_written(converted, tmp_path, monkeypatch) -> None:
    with pytest.raises(ValueError, match='was trained in int8 and has its ranges: leave --calibration out'):
        exported(converted, tmp_path / 'm.xml', calibration=Calibration(IMAGES))
    with pytest.raises(ValueError, match='a quantized layer has no range yet'):
        model = segmentor()
        fake_quantize(model)
        exported(convert_segmentor(model), tmp_path / 'm.xml')
    changed = copy.deepcopy(converted)
    for quantizer in quantizers(changed):
        quantizer.high *= 0.2
    with pytest.raises(VerificationError, match='the rounded model is not equal to the one that was trained'):
        verify_quantized(converted, changed, [SIZE])
    # A file of other ranges, as a CPU computes that overflows.
    monkeypatch.setattr(Precision, 'fast_on_this_cpu', lambda row: False)
    monkeypatch.setattr(export, 'fold_norms', lambda model: copy.deepcopy(changed))
    with pytest.raises(VerificationError, match=r'agree, where 99\.50% must.*has no VNNI, so kernels of 8 bits may'):
        exported(converted, tmp_path / 'm.xml')
    assert not list(tmp_path.iterdir())
