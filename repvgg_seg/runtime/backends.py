"""The runtimes that run an exported file, behind one method; each is imported only where it is used.

A backend maps batches (n, H, W, 3) to class maps (n, H, W), in order. What it yields may be memory that the runtime
uses again: copy what is to last beyond the next step.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import re
import zipfile
from collections import deque
from collections.abc import Callable, Generator, Iterable
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np

from ..files import FileError, StrPath
from .images import Array
from .metadata import ARCHIVE_NAME, KEY, MAX_BYTES, ModelMetadata, Port
from .precision import PRECISIONS

Tag = TypeVar('Tag')
Classes = np.ndarray[Any, Any]  # (n, H, W) uint8 or uint16

MODES = ('latency', 'throughput')
# Suffix -> how such a file begins, as a pattern, and what runs it, the fastest on a CPU first.
KINDS = {
    '.onnx': (rb'\x08', ('openvino', 'onnxruntime')),
    '.xml': (rb'<\?xml[^>]*>\s*<net\b', ('openvino',)),
    '.pt2': (rb'PK', ('torch',)),
}


class Backend(Protocol):
    """An opened model."""

    metadata: ModelMetadata

    def map(self, batches: Iterable[tuple[Tag, Array]]) -> Generator[tuple[Tag, Classes], None, None]:
        """Yield the class maps of each batch, in order, with the tag that came with it."""


def open_model(
    path: StrPath, backend: str, device: str, mode: str, *, trust: bool = False, whole: bool = True
) -> tuple[str, Backend]:
    """Open an exported file; return the name of the backend that was chosen, and it.

    `trust` permits files that can run code of their author, which .pt2 files are; others need no permission. A file
    that is not `whole` ends before the result that its metadata names, as when the network alone is looked at.

    Raises:
        FileNotFoundError: it is not there.
        FileError: it is of another kind, cut short, not written by tools/export.py, or can run code without `trust`.
        ImportError: no backend that runs it is installed.
        ValueError: the backend does not exist or does not run such files, on this device, in this mode.
    """
    path = Path(path)
    if backend not in ('auto', *BACKENDS):
        raise ValueError(f'there is no backend {backend!r}: choose auto or one of {", ".join(BACKENDS)}')
    if mode not in MODES:
        raise ValueError(f'there is no mode {mode!r}: choose one of {", ".join(MODES)}')
    _check_file(path)
    able = KINDS[path.suffix.lower()][1]
    if device == 'cuda':  # which OpenVINO does not have
        able = tuple(name for name in able if name != 'openvino') or able
    if backend == 'auto':
        backend = next((name for name in able if importlib.util.find_spec(name)), able[0])
    if backend not in able:
        raise ValueError(f'{path}: a {path.suffix} file runs in {" or ".join(able)}, not in {backend}')
    if mode == 'throughput' and backend != 'openvino':
        raise ValueError(f'the throughput mode is of openvino, and {path} runs in {backend}')
    if backend == 'torch' and not trust:  # torch.export.load runs pickles and expressions that the file holds
        raise FileError(
            f'{path} can run any code of its author when it is opened, as all .pt2 files can: use an ONNX or OpenVINO '
            'file of the model (.onnx, .xml), which cannot, or say trust=True (--trust) if you trust its author'
        )
    try:
        importlib.import_module(backend)
    except ImportError as error:
        raise ImportError(
            f'{path} runs in {" or ".join(able)}, and {backend} cannot be imported ({error}): '
            f'`pip install {backend}` brings it'
        ) from error
    return backend, BACKENDS[backend](path, device, mode, whole)


def _check_file(path: Path) -> None:
    suffix = path.suffix.lower()
    if path.is_dir():
        raise FileError(f'{path} is a folder: name the exported file in it, which ends in {" or ".join(KINDS)}')
    if suffix == '.bin' and path.with_suffix('.xml').is_file():
        raise FileError(f'{path} holds the weights of {path.with_suffix(".xml").name}: name that file')
    if suffix not in KINDS:
        raise FileError(
            f'{path} is not an exported model, which ends in {" or ".join(KINDS)}: tools/export.py makes one from what '
            'tools/convert_deploy.py wrote'
        )
    try:
        with open(path, 'rb') as file:
            head = file.read(256)
    except FileNotFoundError:
        raise FileNotFoundError(f'{path} does not exist: check the path') from None
    except OSError as error:
        raise FileError(f'{path} cannot be read ({error.strerror or error})') from error
    if not re.match(KINDS[suffix][0], head):
        raise FileError(
            f'{path} is {f"no {suffix} file of a model" if head else "empty"}: copy it again, or export again'
        )
    if suffix == '.xml' and not path.with_suffix('.bin').is_file():
        raise FileError(f'{path.with_suffix(".bin")} is missing, which holds the weights of {path.name}: copy both')


def _damaged(path: Path, error: Exception) -> FileError:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    return FileError(f'{path} is damaged or cut short: copy it again, or export again ({lines[-1][:200]})')


def _metadata(path: Path, text: str | None) -> ModelMetadata:
    if not text:
        raise FileError(f'{path} was not written by tools/export.py: it does not say what its classes are')
    try:
        return ModelMetadata.from_json(text)
    except ValueError as error:
        raise FileError(f'{path}: {error}') from error


def _check_graph(path: Path, metadata: ModelMetadata, inputs: Iterable[Port], outputs: Iterable[Port]) -> None:
    try:
        metadata.check_graph(list(inputs), list(outputs))
    except ValueError as error:
        raise FileError(f'{path}: {error}') from error


def _owned(batch: Array) -> Array:
    """Return a batch as runtimes take it: in one piece, and writable, as those of PIL and read-only maps are not."""
    return np.require(batch, requirements=('C_CONTIGUOUS', 'WRITEABLE'))


def openvino_core() -> Any:
    """Return the process's one openvino.Core, which is never freed; whatever compiles a model here uses it.

    Each Core of OpenVINO 2026.4 gives its thread a signal stack and, freed, puts back the one it found: of two that are
    freed in the order they were made in, the second puts back memory that is unmapped, and the next signal with a
    Python handler (a data loader's SIGCHLD, Ctrl-C) ends the process with a segmentation fault.
    """
    return _core_of(os.getpid())  # a forked process has none of its parent's threads, so it needs another Core


@functools.cache
def _core_of(process: int) -> Any:
    import openvino

    return openvino.Core()


class OpenVINO:
    """Runs .xml and .onnx files; `device` is one of OpenVINO's, such as cpu, gpu or npu.

    In the throughput mode several requests run at once, each on a part of the cores.
    """

    def __init__(self, path: Path, device: str, mode: str, whole: bool = True) -> None:
        import openvino

        self._tensor = openvino.Tensor
        core = openvino_core()
        device = 'CPU' if device == 'auto' else device.upper()
        if device.partition('.')[0] not in core.available_devices:
            raise ValueError(f'openvino has no device {device} here, only {", ".join(core.available_devices)}')
        try:
            model = core.read_model(path)
            place = [KEY] if path.suffix.lower() == '.xml' else ['framework', KEY]
            text = model.get_rt_info(place).value if model.has_rt_info(place) else None
            ports = [*map(_of_openvino, model.inputs)], [*map(_of_openvino, model.outputs)]
        except (RuntimeError, UnicodeError) as error:
            raise _damaged(path, error) from error
        self.metadata = _metadata(path, text)
        if whole:
            _check_graph(path, self.metadata, *ports)
        # What the file asks for, or float32. Of its own accord, a CPU that has bfloat16 but no float16 computes float16
        # and float32 models in it alike.
        precision = PRECISIONS[self.metadata.precision].rest or self.metadata.precision
        able = precision.upper() in core.get_property(device, 'OPTIMIZATION_CAPABILITIES')
        hint = PRECISIONS[precision if able else 'fp32'].openvino
        options = {'PERFORMANCE_HINT': mode.upper(), 'INFERENCE_PRECISION_HINT': hint}
        self._compiled = core.compile_model(model, device, options)
        self._depth = self._compiled.get_property('OPTIMAL_NUMBER_OF_INFER_REQUESTS') if mode == 'throughput' else 1
        self._idle: deque[Any] = deque()

    def map(self, batches: Iterable[tuple[Tag, Array]]) -> Generator[tuple[Tag, Classes], None, None]:
        """Yield the class maps of each batch, in order."""
        running: deque[tuple[Tag, Array, Any]] = deque()
        try:
            for tag, batch in batches:
                # Requests come from a common store, so that several threads may map at once.
                try:
                    request = self._idle.pop()
                except IndexError:
                    request = self._compiled.create_infer_request()
                batch = _owned(batch)
                request.set_input_tensor(self._tensor(batch, shared_memory=True))
                request.start_async()
                running.append((tag, batch, request))
                if len(running) == self._depth:
                    yield from self._oldest(running)
            while running:
                yield from self._oldest(running)
        finally:
            for *_, request in running:  # it still reads its input
                request.wait()

    def _oldest(self, running: deque[tuple[Tag, Array, Any]]) -> Generator[tuple[Tag, Classes], None, None]:
        running[0][2].wait()
        tag, _, request = running.popleft()
        yield tag, request.get_output_tensor().data
        self._idle.append(request)


def _of_openvino(node: Any) -> Port:
    """Return an input or output of an openvino.Model, with the names of types that are ours among OpenVINO's."""
    names = {'u8': 'uint8', 'u16': 'uint16', 'f32': 'float32'}
    dtype, shape = node.get_element_type().get_type_name(), node.get_partial_shape()
    if shape.rank.is_dynamic:
        return Port(names.get(dtype, dtype), None)
    lengths = (length.get_length() if length.is_static else None for length in shape)
    return Port(names.get(dtype, dtype), tuple(lengths))


class Synchronous:
    """What the backends have in common that run one batch at a time."""

    metadata: ModelMetadata
    infer: Callable[[Array], Classes]

    def map(self, batches: Iterable[tuple[Tag, Array]]) -> Generator[tuple[Tag, Classes], None, None]:
        """Yield the class maps of each batch, in order."""
        for tag, batch in batches:
            yield tag, self.infer(_owned(batch))


class ONNXRuntime(Synchronous):
    """Runs .onnx files on the CPU, or on a GPU with the CUDA build of onnxruntime."""

    def __init__(self, path: Path, device: str, mode: str, whole: bool = True) -> None:
        import onnxruntime

        providers = {'cpu': 'CPUExecutionProvider'}
        if 'CUDAExecutionProvider' in onnxruntime.get_available_providers():
            providers = {'cuda': 'CUDAExecutionProvider', **providers}
        provider = providers[_choose('onnxruntime', device, list(providers))]
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3  # errors; its warnings are about the exporter's graph
        # On CPUs with AVX2 or AVX-512 and no VNNI, where sums of int8 would overflow, a slower and right sum.
        options.add_session_config_entry('session.x64quantprecision', '1')
        try:
            session = onnxruntime.InferenceSession(str(path), options, providers=[provider])
            text = session.get_modelmeta().custom_metadata_map.get(KEY)
            ports = [*map(_of_onnx, session.get_inputs())], [*map(_of_onnx, session.get_outputs())]
        except Exception as error:
            raise _damaged(path, error) from error
        self.metadata = _metadata(path, text)
        if whole:
            _check_graph(path, self.metadata, *ports)
        name = session.get_inputs()[0].name
        self.infer = lambda batch: session.run(None, {name: batch})[0]


def _of_onnx(node: Any) -> Port:
    """Return an input or output of an onnxruntime session; lengths that are not fixed are names there."""
    dtype = re.sub(r'tensor\((\w+)\)', r'\1', node.type)
    lengths = (length if isinstance(length, int) else None for length in node.shape)
    return Port('float32' if dtype == 'float' else dtype, tuple(lengths) or None)


class Torch(Synchronous):
    """Runs .pt2 files, archives of torch.export, on the CPU or a GPU."""

    def __init__(self, path: Path, device: str, mode: str, whole: bool = True) -> None:
        import torch

        device = _choose('torch', device, ['cuda', 'cpu'] if torch.cuda.is_available() else ['cpu'])
        try:
            with zipfile.ZipFile(path) as archive:
                names = [name for name in archive.namelist() if name.endswith(f'/extra/{ARCHIVE_NAME}')]
                text = None
                if names:
                    with archive.open(names[0]) as member:
                        text = member.read(MAX_BYTES + 1).decode()  # however much it says that it unpacks to
        except Exception as error:  # zipfile and its decompressors raise many kinds
            raise _damaged(path, error) from error
        self.metadata = _metadata(path, text)
        try:
            program = torch.export.load(path)
            ports = _of_program(program)
            if device != 'cpu':
                program = importlib.import_module('torch.export.passes').move_to_device_pass(program, device)
            module = program.module()
        except Exception as error:
            raise _damaged(path, error) from error
        if whole:
            _check_graph(path, self.metadata, *ports)

        def infer(batch: Array) -> Classes:
            with torch.inference_mode():
                return module(torch.from_numpy(batch).to(device)).cpu().numpy()

        self.infer = infer


def _of_program(program: Any) -> tuple[list[Port], list[Port]]:
    """Return inputs and outputs of a torch.export program."""
    values = {node.name: node.meta.get('val') for node in program.graph.nodes}

    def port(name: Any) -> Port:
        value: Any = values.get(name)
        if not hasattr(value, 'shape'):
            return Port(type(value).__name__, None)
        lengths = (length if isinstance(length, int) else None for length in value.shape)
        return Port(str(value.dtype).removeprefix('torch.'), tuple(lengths))

    signature = program.graph_signature
    return [port(name) for name in signature.user_inputs], [port(name) for name in signature.user_outputs]


def _choose(backend: str, device: str, devices: list[str]) -> str:
    """Return the device to use, the first of `devices` for 'auto'."""
    if device not in ('auto', *devices):
        raise ValueError(f'{backend} has no device {device!r} here, only {", ".join(devices)}')
    return devices[0] if device == 'auto' else device


BACKENDS: dict[str, Callable[[Path, str, str, bool], Backend]] = {
    'openvino': OpenVINO,
    'onnxruntime': ONNXRuntime,
    'torch': Torch,
}
