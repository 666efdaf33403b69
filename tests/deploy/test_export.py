import dataclasses
import json
import sys

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from repvgg_seg import files
from repvgg_seg.deploy import export
from repvgg_seg.deploy.convert import VerificationError, convert_segmentor, synthetic_images
from repvgg_seg.deploy.export import TARGETS, Parity, export_segmentor
from repvgg_seg.deploy.graph import InferenceGraph
from repvgg_seg.runtime.backends import openvino_core
from repvgg_seg.runtime.metadata import ModelMetadata
from repvgg_seg.runtime.precision import PRECISIONS
from repvgg_seg.runtime.segmenter import Segmenter
from tests.conftest import TINY_PLUS, TINY_SE
from tests.segmentors import segmentor

SIZE = (33, 47)
SOURCE = {'file': 'deploy.pth', 'sha256': 'ab' * 32}


def exported(path, to: str, model, **options):
    return export_segmentor(convert_segmentor(model), path, to=to, **{'size': SIZE, 'source': SOURCE, **options})


def test_onnx_holds_classes_of_any_number_of_images_and_says_so_itself(tmp_path) -> None:
    model = segmentor('UPerHead', TINY_SE, classes=300)
    report = exported(tmp_path / 'm.onnx', 'onnx', model, batch=None, classes=['road'], palette=[[128, 64, 128]])
    assert report == json.loads((tmp_path / 'm.onnx.report.json').read_text())
    assert report['parity']['agreement'] == 1 and report['parity']['max_rel'] < 1e-5
    assert report['sha256'] == {'m.onnx': files.sha256(tmp_path / 'm.onnx')}
    assert sorted(path.name for path in tmp_path.iterdir()) == ['m.onnx', 'm.onnx.report.json']  # one file, all inside

    session = onnxruntime.InferenceSession(str(tmp_path / 'm.onnx'))
    images = synthetic_images(SIZE).repeat(2, 1, 1, 1)[:3]
    (result,) = session.run(None, {'images': images.numpy()})
    with torch.no_grad():
        assert result.dtype == np.uint16 and np.array_equal(result, InferenceGraph(model)(images).numpy())
    metadata = ModelMetadata.from_json(session.get_modelmeta().custom_metadata_map['repvgg_seg'])
    assert (metadata.batch, metadata.size, metadata.output, metadata.precision) == (None, SIZE, 'classes', 'fp32')
    assert metadata.classes[:2] == ('road', 'class 1') and len(set(metadata.palette)) == 300
    assert metadata.palette[0] == (128, 64, 128) and metadata.source == SOURCE
    assert {'torch', 'onnx', 'onnxruntime'} <= set(metadata.versions)
    operators = {node.op_type for node in onnx.load(tmp_path / 'm.onnx').graph.node}
    assert 'Conv' in operators and 'BatchNormalization' not in operators


def test_openvino_holds_16_bit_classes_and_resizes_images(tmp_path) -> None:
    model = segmentor('PSPHead', classes=300)
    report = exported(tmp_path / 'm.xml', 'openvino', model, image_size=(40, 60), batch=2)
    assert report['metadata']['input'] == [2, 40, 60, 3] and set(report['sha256']) == {'m.xml', 'm.bin'}
    network = openvino_core().read_model(tmp_path / 'm.xml')
    text = network.get_rt_info(['repvgg_seg']).astype(str)
    assert ModelMetadata.from_json(text).size == (40, 60)
    assert list(network.input('images').shape) == [2, 40, 60, 3]
    assert not {op.get_type_name() for op in network.get_ops()} & {'BatchNormInference'}
    result = openvino_core().compile_model(network, 'CPU', {'INFERENCE_PRECISION_HINT': 'f32'})(
        synthetic_images((40, 60)).numpy()
    )['classes']
    with torch.no_grad():
        expected = InferenceGraph(model, resize_to=SIZE)(synthetic_images((40, 60)))
    assert result.dtype == np.uint16 and (result == expected.numpy()).mean() > 0.999


def test_openvino_takes_logits_of_more_than_255_columns(tmp_path) -> None:
    """Torch numbers them in uint16, which OpenVINO's reader does not know, where a matrix is made in the graph."""
    report = exported(tmp_path / 'm.xml', 'openvino', segmentor('FoldedUPerHead'), size=(32, 1056))
    assert report['parity']['agreement'] > 0.9999


def test_a_torch_archive_holds_a_sigmoid_head_that_returns_logits(tmp_path) -> None:
    model = segmentor('PSPHead', TINY_PLUS, classes=1)
    report = exported(tmp_path / 'm.pt2', 'exported-program', model, output='logits', batch=2)
    assert report['metadata']['num_classes'] == 2 and report['metadata']['output'] == 'logits'
    extra = {'repvgg_seg.json': ''}
    program = torch.export.load(tmp_path / 'm.pt2', extra_files=extra)
    assert ModelMetadata.from_json(extra['repvgg_seg.json']).batch == 2
    images = synthetic_images(SIZE)
    with torch.no_grad():
        expected = InferenceGraph(model, output='logits')(images)
        assert torch.allclose(program.module()(images), expected, atol=1e-4) and expected.shape == (2, 1, *SIZE)


@pytest.mark.parametrize(
    ('channels', 'to', 'name'),
    [(1, 'openvino', 'm.xml'), (4, 'exported-program', 'm.pt2'), (13, 'onnx', 'm.onnx')],
)
def test_images_of_other_channels_than_rgb_run_in_the_segmenter(channels: int, to: str, name: str, tmp_path) -> None:
    preprocessor = dict(type='SegDataPreProcessor', mean=[90.0], std=[60.0])
    model = segmentor(data_preprocessor=preprocessor, in_channels=channels)
    report = exported(tmp_path / name, to, model)
    assert report['metadata']['input'] == [1, *SIZE, channels] and report['parity']['agreement'] == 1
    image = synthetic_images(SIZE, channels)[0]
    with torch.no_grad():
        expected = InferenceGraph(model)(image[None])[0].numpy()
    segmenter = Segmenter(tmp_path / name, trust=True)
    assert (segmenter(image.numpy()) == expected).mean() > 0.999
    small = np.ascontiguousarray(image.numpy()[:20, :30])
    padded = np.full((*SIZE, channels), 90, np.uint8)  # what the network sees as nothing
    padded[:20, :30] = small
    tiled = Segmenter(tmp_path / name, fit='tile', trust=True)
    assert np.array_equal(tiled(small), tiled(padded)[:20, :30])
    assert Segmenter(tmp_path / name, fit='resize', trust=True)(
        synthetic_images((50, 90), channels)[0].numpy()
    ).shape == (50, 90)
    with pytest.raises(ValueError, match=rf'takes arrays \(H, W, {channels}\) of uint8, and files are read as RGB'):
        segmenter(tmp_path / 'image.png')
    with pytest.raises(ValueError, match=rf'an image is an array \(H, W, {channels}\) of uint8, not \(33, 47, 3\)'):
        segmenter(np.zeros((*SIZE, 3), np.uint8))
    with pytest.raises(ValueError, match=f'an image of {channels} channels has no colours to lay'):
        segmenter.overlay(image.numpy(), expected)


def test_images_of_other_channels_than_the_models_do_not_join_the_comparison(tmp_path) -> None:
    with pytest.raises(ValueError, match='images of 4 channels were given, and the model takes 3'):
        exported(tmp_path / 'm.pt2', 'exported-program', segmentor(), images=[np.zeros((9, 9, 4), np.uint8)])


@pytest.mark.parametrize(
    ('to', 'precision'), [('openvino', 'bf16'), ('openvino', 'fp16'), ('exported-program', 'bf16')]
)
def test_half_precision_is_judged_where_rounding_does_not_decide(to: str, precision: str, tmp_path) -> None:
    path = tmp_path / f'm{TARGETS[to].suffix}'
    parity = exported(path, to, segmentor('PSPHead'), precision=precision)['parity']
    assert parity['decided']['agreement'] == 1 and 0 < parity['decided']['share'] <= 1
    computed = to != 'openvino' or precision.upper() in openvino_core().get_property('CPU', 'OPTIMIZATION_CAPABILITIES')
    assert (1e-6 if computed else 0) < parity['max_rel'] < PRECISIONS[precision].max_rel
    assert ModelMetadata.from_json(json.dumps(json.loads(path.with_name(f'{path.name}.report.json').read_text())
                                              ['metadata'])).precision == precision  # fmt: skip


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch) -> None:
    (tmp_path / 'm.pt2').write_text('an earlier export')
    write = TARGETS['exported-program'].write

    def wrong(graph, path, metadata) -> None:
        with torch.no_grad():
            graph.decode_head.conv_seg.bias[2] += 0.01
        write(graph, path, metadata)

    monkeypatch.setitem(TARGETS, 'exported-program', dataclasses.replace(TARGETS['exported-program'], write=wrong))
    with pytest.raises(VerificationError, match=r'exported graph is not equal to the original.*m\.pt2 was not written'):
        exported(tmp_path / 'm.pt2', 'exported-program', segmentor())
    assert [path.name for path in tmp_path.iterdir()] == ['m.pt2']
    assert (tmp_path / 'm.pt2').read_text() == 'an earlier export'


def test_a_package_that_is_missing_is_named(tmp_path, monkeypatch) -> None:
    for to, package in (('onnx', 'onnxscript'), ('onnx', 'onnxruntime'), ('openvino', 'openvino')):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(ImportError, match=rf'exporting to {to} needs {package}.*`pip install .*{package}'):
                export_segmentor(None, tmp_path / f'm{TARGETS[to].suffix}', to=to, size=SIZE, source=SOURCE)


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (dict(to='tflite'), "no target 'tflite': choose one of onnx, openvino, exported-program"),
        (dict(precision='bf16'), "onnx cannot be exported in 'bf16', only in fp32, fp16, int8"),
        (dict(precision='int4'), "cannot be exported in 'int4'"),
        (dict(size=(0, 64)), r'sizes and batches begin at 1; got size \(0, 64\)'),
        (dict(batch=0), 'begin at 1; got .* batch 0'),
        (dict(image_size=(64, 0)), r'images of \(64, 0\)'),
        (dict(path='m.xml'), r'm.xml must end in .onnx'),
        (dict(path='folder.onnx'), 'folder.onnx is a folder'),
        (dict(classes=['a', 'b', 'c', 'd', 'e', 'f']), 'distinguishes 5 classes, but 6 are named'),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_refused_before_anything_is_written(options: dict, message: str, tmp_path) -> None:
    (tmp_path / 'folder.onnx').mkdir()
    path = tmp_path / options.pop('path', 'm.onnx')
    with pytest.raises(ValueError, match=message):
        exported(path, options.pop('to', 'onnx'), segmentor(), **options)
    assert [path.name for path in tmp_path.iterdir()] == ['folder.onnx']


def test_a_folder_that_cannot_be_written_is_reported(tmp_path) -> None:
    (tmp_path / 'file').touch()
    with pytest.raises(ValueError, match=r'file cannot be written .*: choose another folder'):
        exported(tmp_path / 'file' / 'm.pt2', 'exported-program', segmentor())


def parity(precision: str, logits: torch.Tensor, threshold: float = 0.5) -> Parity:
    """Compare `logits` with ones in which class 0 leads by 1 at half of the pixels and by 0.001 at the others."""
    reference = torch.tensor([[[2.0, 2.0]], [[1.0, 1.999]]])[None]
    result = Parity(precision)
    result.add(reference, threshold, logits.argmax(1), logits, reference.argmax(1))
    return result


def test_parity_counts_near_ties_in_float32_only() -> None:
    flipped = torch.tensor([[[2.0, 2.0]], [[1.0, 2.001]]])[None]  # the near tie goes the other way
    figures = parity('fp32', flipped).summary()
    assert figures['agreement'] == 0.5 and figures['max_rel'] == pytest.approx(0.001, rel=1e-3)
    with pytest.raises(VerificationError, match=r'up to 0\.001 off.*50\.0000% of the pixels that count agree'):
        export._require_parity('m', figures)
    figures = parity('bf16', flipped).summary()
    assert figures['agreement'] == 0.5 and figures['decided'] == {'share': 0.5, 'agreement': 1.0}
    export._require_parity('m', figures)
    wrong = torch.tensor([[[1.98, 2.0]], [[2.0, 2.001]]])[None]  # and so does what was decided
    with pytest.raises(VerificationError, match=r'0\.0000% of the pixels that count'):
        export._require_parity('m', parity('bf16', wrong).summary())


def test_parity_fails_on_values_that_are_not_numbers() -> None:
    broken = torch.tensor([[[2.0, float('nan')]], [[1.0, 1.999]]])[None]
    result = parity('bf16', broken)
    good = torch.ones(1, 2, 1, 1)
    result.add(good, 0.5, good.argmax(1), good, good.argmax(1))  # a later batch does not hide it
    with pytest.raises(VerificationError, match='logits are up to nan off'):
        export._require_parity('m', result.summary())


def test_parity_of_a_sigmoid_head_measures_from_its_threshold() -> None:
    reference = torch.logit(torch.tensor([0.4001, 0.9, 0.1])).reshape(1, 1, 1, 3)
    result = Parity('bf16')
    classes = torch.tensor([[[1, 1, 0]]])
    result.add(reference, 0.4, 1 - classes, reference, classes)  # each class is wrong: two where it counts
    assert (result.pixels, result.equal, result.decided, result.decided_equal) == (3, 0, 2, 0)


@pytest.mark.parametrize(('batch', 'groups'), [(None, [1, 2]), (2, [2, 2]), (1, [1, 1, 1]), (4, [4])])
def test_images_are_grouped_as_the_file_takes_them_and_counted_once(batch, groups: list[int]) -> None:
    images = [torch.full((2, 2, 3), value) for value in range(3)]
    found = list(export._groups(images, batch))
    assert [len(group) for _, group in found] == groups
    assert [int(image[0, 0, 0]) for new, group in found for image in group[:new]] == [0, 1, 2]
