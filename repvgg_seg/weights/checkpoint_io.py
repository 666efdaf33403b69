"""Weight files on disk: read without ever running a pickle, written whole or not at all (`..files`)."""

from __future__ import annotations

import logging
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor

from ..files import FileError, StrPath, atomic_write
from .safe_unpickling import allowlist

logger = logging.getLogger(__name__)


class WeightsError(FileError):
    """A weight file or name that cannot be used, with its cause and cure in one sentence."""


def read_checkpoint(
    source: StrPath | BinaryIO, *, unsafe: bool = False, map_location: Any = 'cpu', mmap: bool = False
) -> dict[str, Any]:
    """Return the dictionary stored in a torch (.pth) or safetensors file, without running code from it.

    Only tensors, plain containers and what mmengine adds to its training checkpoints are rebuilt; there is no
    fallback. `unsafe=True` runs whatever the file contains, for this one call, and says so in the log. With `mmap` the
    tensors of a torch file are read when they are used, so that what else is in it costs little.

    Raises:
        WeightsError: the file is missing, cut short, not a weight file, or would run code.
    """
    if not isinstance(source, (str, os.PathLike)):
        return _read(source, 'the open file', unsafe, map_location, None)
    try:
        with open(source, 'rb') as file:
            return _read(file, str(source), unsafe, map_location, mmap or None)
    except FileNotFoundError:
        raise WeightsError(f'{source} does not exist: check the path') from None
    except OSError as error:
        raise WeightsError(f'{source} cannot be read ({error.strerror or error})') from error


def _read(file: BinaryIO, name: str, unsafe: bool, map_location: Any, mmap: bool | None) -> dict[str, Any]:
    head = file.read(512)
    file.seek(0)
    text = head.lstrip().lower()
    if not head:
        raise WeightsError(f'{name} is empty: copy or download it again')
    if text.startswith((b'<!doctype', b'<html', b'<head', b'<?xml')):
        raise WeightsError(f'{name} is a web page, not a weight file: the download went wrong, fetch the file itself')
    if text.startswith(b'version https://git-lfs'):
        raise WeightsError(f'{name} is a Git LFS pointer, not the weights: run `git lfs pull` where it comes from')
    if head[8:9] == b'{':  # eight bytes of length, then a JSON header: safetensors
        return _read_safetensors(file, name, map_location)
    if unsafe:
        logger.warning('%s is loaded with unsafe=True: code inside it runs now', name)
    try:
        if unsafe:
            checkpoint = torch.load(file, map_location=map_location, weights_only=False)
        else:
            with allowlist():
                mapped = mmap and head.startswith(b'PK')  # torch maps files by their names, of its newer format alone
                checkpoint = torch.load(name if mapped else file, map_location, weights_only=True, mmap=mapped)
    except Exception as error:  # a broken file can raise nearly anything: each kind becomes one sentence
        raise WeightsError(_diagnose(error, head, name)) from error
    if not unsafe and _hides_methods(checkpoint):
        raise WeightsError(f'{name} replaces methods of its dictionaries, as no training does: do not use it')
    if not isinstance(checkpoint, dict):
        raise WeightsError(
            f'{name} holds a {type(checkpoint).__name__}, not a dictionary: save model.state_dict() instead'
        )
    return checkpoint


def not_finite(tree: Any, name: str = '') -> str | None:
    """Return the name of the first tensor in dictionaries and lists that has NaN or Inf; None if all are finite."""
    if isinstance(tree, Tensor):
        return None if tree.isfinite().all() else name
    parts = tree.items() if isinstance(tree, Mapping) else enumerate(tree) if isinstance(tree, (list, tuple)) else ()
    found = (not_finite(part, f'{name}.{key}' if name else str(key)) for key, part in parts)
    return next((bad for bad in found if bad), None)


def _hides_methods(checkpoint: Any) -> bool:
    """Whether a dictionary inside has attributes, which hide its methods; torch itself adds `_metadata`."""
    seen: dict[int, Any] = {}
    todo = [checkpoint]
    while todo:
        value = todo.pop()
        if id(value) in seen:
            continue
        seen[id(value)] = value
        attributes = getattr(value, '__dict__', {})
        if isinstance(value, dict):
            if attributes.keys() - {'_metadata'}:
                return True
            todo += dict.values(value)
        elif isinstance(value, (list, tuple, set, frozenset)):
            todo += value
        todo += attributes.values()
    return False


def _diagnose(error: Exception, head: bytes, name: str) -> str:
    forbidden = re.search(r'(?:GLOBAL|global:?) (?:GLOBAL )?([\w.]+)', str(error))
    if isinstance(error, pickle.UnpicklingError) and forbidden:
        return (
            f'{name} asks for the Python object {forbidden[1]}, which could run code: '
            'save model.state_dict() instead, or read it with unsafe=True if you trust its author'
        )
    if 'TorchScript' in str(error):
        return f'{name} is a TorchScript program, not a weight file: use the state dict that it was made from'
    if head.startswith((b'PK\x03\x04', b'\x80')):  # a zip archive or a pickle: the right kind of file
        return f'{name} is damaged, cut short or not written by torch.save: copy or download it again'
    return f'{name} is not a weight file: expected a torch .pth or a .safetensors file'


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:160]


def _read_safetensors(file: BinaryIO, name: str, map_location: Any) -> dict[str, Any]:
    safetensors = _safetensors(name)
    try:
        tensors = safetensors.load(file.read())
    except Exception as error:  # safetensors.SafetensorError and what its parser raises
        raise WeightsError(
            f'{name} is damaged or cut short: copy or download it again ({_first_line(error)})'
        ) from error
    return tensors if map_location is None else {key: tensor.to(map_location) for key, tensor in tensors.items()}


def _safetensors(name: str) -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise WeightsError(f'{name} is a safetensors file: install the reader with `pip install safetensors`') from None
    return safetensors.torch


def write_checkpoint(checkpoint: Mapping[str, Any], path: StrPath) -> None:
    """Write a dictionary as a torch file, or as safetensors if `path` ends so, atomically.

    Raises:
        WeightsError: safetensors is asked to hold more than tensors.
        FileError: it cannot be written.
    """
    if Path(path).suffix.lower() == '.safetensors':
        other = [key for key, value in checkpoint.items() if not isinstance(value, Tensor)]
        if other:
            raise WeightsError(
                f'{path} can hold tensors only, not {", ".join(map(str, other[:3]))}: choose a .pth name'
            )
        safetensors = _safetensors(str(path))
        try:
            # Cloned, because safetensors refuses views and tensors that share memory.
            data = safetensors.save(
                {k: v.detach().clone().contiguous() for k, v in checkpoint.items()}, {'format': 'pt'}
            )
        except (RuntimeError, TypeError, ValueError, KeyError) as error:
            raise WeightsError(f'{path} cannot hold one of these tensors ({_first_line(error)})') from error
        with atomic_write(path) as file:
            file.write(data)
        return
    with atomic_write(path) as file:
        try:
            torch.save({key: _alone(value) for key, value in checkpoint.items()}, file)
        except RuntimeError as error:  # torch's archive writer hides the OSError of a full disk in one
            raise OSError(_first_line(error.__context__ or error)) from error


def _alone(value: Any) -> Any:
    """Copy a part of a larger storage, because torch.save would write the whole of it."""
    if not isinstance(value, Tensor) or value.layout != torch.strided or value.is_meta:
        return value
    return value.clone() if value.untyped_storage().nbytes() > value.nbytes else value
