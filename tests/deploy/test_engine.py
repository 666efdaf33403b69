import sys
from types import SimpleNamespace
from unittest.mock import MagicMock

import onnx
import pytest
from onnx import TensorProto, helper

from repvgg_seg.deploy.engine import build_engine
from tests.conftest import tool
from tests.runtime.test_metadata import METADATA


@pytest.fixture
def onnx_file(tmp_path):
    """A file with nothing but the metadata of a model that takes any number of images."""
    graph = helper.make_graph([], 'empty', [], [helper.make_tensor_value_info('x', TensorProto.FLOAT, [1])])
    model = helper.make_model(graph)
    values = METADATA.to_json().replace('[1, 64, 128, 3]', '["dynamic", 64, 128, 3]')
    helper.set_model_props(model, {'repvgg_seg': values})
    onnx.save_model(model, tmp_path / 'm.onnx')
    return tmp_path / 'm.onnx'


@pytest.fixture
def tensorrt(monkeypatch):
    """Stands in for the package, which needs a GPU: records the calls, and builds a few bytes."""
    fake = MagicMock(__version__='10')
    fake.NetworkDefinitionCreationFlag = SimpleNamespace(STRONGLY_TYPED=1)
    fake.Builder.return_value.build_serialized_network.return_value = b'engine'
    monkeypatch.setitem(sys.modules, 'tensorrt', fake)
    return fake


def test_an_engine_is_strongly_typed_and_takes_up_to_the_largest_batch(onnx_file, tensorrt, tmp_path) -> None:
    assert build_engine(onnx_file, tmp_path / 'm.engine', max_batch=4).classes == METADATA.classes
    assert (tmp_path / 'm.engine').read_bytes() == b'engine'
    builder = tensorrt.Builder.return_value
    builder.create_network.assert_called_once_with(2)
    profile = builder.create_optimization_profile.return_value
    profile.set_shape.assert_called_once_with('images', (1, 64, 128, 3), (4, 64, 128, 3), (4, 64, 128, 3))
    builder.create_builder_config.return_value.add_optimization_profile.assert_called_once_with(profile)


def test_what_tensorrt_refuses_is_told_and_nothing_is_written(onnx_file, tensorrt, tmp_path) -> None:
    tensorrt.Builder.return_value.build_serialized_network.return_value = None
    with pytest.raises(ValueError, match=r'TensorRT 10 cannot build an engine from .*m\.onnx'):
        build_engine(onnx_file, tmp_path / 'm.engine')
    tensorrt.OnnxParser.return_value.parse.return_value = False
    tensorrt.OnnxParser.return_value.get_error.return_value.desc.return_value = 'no importer for Foo'
    with pytest.raises(ValueError, match=r'cannot read .*m\.onnx: no importer for Foo'):
        build_engine(onnx_file, tmp_path / 'm.engine')
    assert not (tmp_path / 'm.engine').exists()


def test_files_that_are_no_exported_models(onnx_file, tensorrt, tmp_path) -> None:
    with pytest.raises(FileNotFoundError, match=r'gone\.onnx does not exist: tools/export\.py --to onnx writes it'):
        build_engine(tmp_path / 'gone.onnx', tmp_path / 'm.engine')
    (tmp_path / 'text.onnx').write_text('no model at all')
    with pytest.raises(ValueError, match=r'text\.onnx is no ONNX file'):
        build_engine(tmp_path / 'text.onnx', tmp_path / 'm.engine')
    model = onnx.load(onnx_file)
    del model.metadata_props[:]
    onnx.save_model(model, tmp_path / 'other.onnx')
    with pytest.raises(ValueError, match=r'other\.onnx was not written by tools/export\.py'):
        build_engine(tmp_path / 'other.onnx', tmp_path / 'm.engine')
    with pytest.raises(ValueError, match='at least one image, not 0'):
        build_engine(onnx_file, tmp_path / 'm.engine', max_batch=0)


def test_without_tensorrt_the_command_says_what_is_missing(onnx_file, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, 'tensorrt', None)
    assert tool('build_tensorrt')([str(onnx_file), str(tmp_path / 'm.engine')]) == 2
    said = capsys.readouterr().err
    assert 'building an engine needs tensorrt, which cannot be imported' in said and '`pip install tensorrt`' in said
