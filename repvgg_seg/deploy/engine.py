"""TensorRT engines from exported ONNX files. Written for TensorRT 10 and 11; it has not been run on a GPU yet."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

from ..files import FileError, StrPath, atomic_write
from ..runtime.metadata import KEY, ModelMetadata


def build_engine(onnx_file: StrPath, out: StrPath, *, max_batch: int = 8) -> ModelMetadata:
    """Build the engine of an ONNX file that tools/export.py wrote, for the GPU that is there, and write it to `out`.

    The network is strongly typed: its precision is that of the file (export with --precision fp16 for half).
    `max_batch` counts where the file takes any number of images. An engine holds no metadata: the file's is returned.

    Raises:
        FileNotFoundError: there is no such file.
        ImportError: TensorRT or onnx is not installed.
        ValueError: the file is none of ours, has more classes than TensorRT's 8 bits hold, or TensorRT refuses it.
    """
    path = Path(onnx_file)
    if not path.is_file():
        raise FileNotFoundError(f'{path} does not exist: tools/export.py --to onnx writes it')
    if max_batch < 1:
        raise ValueError(f'a batch has at least one image, not {max_batch}')
    trt = _imported('tensorrt', 'it comes from NVIDIA, `pip install tensorrt`, and needs an NVIDIA GPU')
    metadata = _metadata(path)
    if metadata.output == 'classes' and len(metadata.classes) > 256:
        raise ValueError(f'{path} returns 16-bit class indices, which TensorRT lacks: export it with --output logits')
    logger = trt.Logger(trt.Logger.WARNING)
    builder = trt.Builder(logger)
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(path.read_bytes()):
        raise ValueError(f'TensorRT {trt.__version__} cannot read {path}: {parser.get_error(0).desc()}')
    config = builder.create_builder_config()
    if metadata.batch is None:
        profile = builder.create_optimization_profile()
        profile.set_shape('images', *((batch, *metadata.size, 3) for batch in (1, max_batch, max_batch)))
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise ValueError(f'TensorRT {trt.__version__} cannot build an engine from {path}: its log above says why')
    with atomic_write(out) as file:
        file.write(engine)
    return metadata


def _imported(package: str, cure: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(f'building an engine needs {package}, which cannot be imported ({error}): {cure}') from error


def _metadata(path: Path) -> ModelMetadata:
    onnx = _imported('onnx', "`pip install 'repvgg-seg[export]'` brings it")
    try:
        properties = {entry.key: entry.value for entry in onnx.load(path, load_external_data=False).metadata_props}
    except Exception as error:  # protobuf's own kinds
        raise FileError(f'{path} is no ONNX file, or is cut short: export it again') from error
    if KEY not in properties:
        raise FileError(f'{path} was not written by tools/export.py: it does not say what it takes')
    return ModelMetadata.from_json(properties[KEY])
