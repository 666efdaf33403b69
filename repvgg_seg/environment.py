"""What machine this is and which packages it has; needs nothing but Python."""

from __future__ import annotations

import importlib
import importlib.metadata
import platform
import re
import subprocess
import sys
from importlib.metadata import Distribution
from pathlib import Path
from typing import Any

OURS = 'repvgg-seg'

# The instruction sets of x86 and ARM that make fp16, bf16 and int8 fast, as /proc/cpuinfo spells them.
_LOW_PRECISION = (
    'amx_fp16', 'avx512_fp16', 'fphp', 'amx_bf16', 'avx512_bf16', 'bf16', 'amx_int8', 'avx512_vnni', 'avx_vnni', 'i8mm'
)  # fmt: skip


def installed_distributions() -> dict[str, Distribution]:
    """Canonical name -> distribution; the first on the path answers, as it does for an import."""
    found: dict[str, Distribution] = {}
    for distribution in importlib.metadata.distributions():
        try:
            name, version = distribution.metadata['Name'], distribution.version
        except Exception:
            continue  # A killed pip leaves records without metadata; each Python fails in its own way.
        if name and version:
            found.setdefault(canonical(name), distribution)
    return found


def licences() -> dict[str, tuple[str, str]]:
    """Return name -> (version, licence) of all that is installed, as its own metadata tells."""
    return {
        name: (distribution.version, _licence(distribution.metadata))
        for name, distribution in sorted(installed_distributions().items())
    }


def _licence(metadata: Any) -> str:
    if expression := metadata.get('License-Expression'):
        return expression
    listed = [line for line in metadata.get_all('Classifier', []) if line.startswith('License ::')]
    text = (metadata.get('License') or '').strip().splitlines()
    return ', '.join(line.rpartition(' :: ')[2] for line in listed) or (text[0] if text else 'not told')


def optional(module: str, extra: str, what: str) -> Any:
    """Return a module of an extra, which `what` needs.

    Raises:
        ImportError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        name = module.partition('.')[0]
        raise ImportError(
            f"{what} needs {name}: `python -m pip install '.[{extra}]'` in a checkout brings it"
        ) from error


def canonical(name: str) -> str:
    return re.sub(r'[-_.]+', '-', name).lower()


def is_runtime_only() -> bool:
    """Whether neither torch nor OpenMMLab is installed: enough to run exported files, and meant for that."""
    installed = installed_distributions()
    return not any(name == 'torch' or name.startswith('onedl-') for name in installed)


def versions() -> dict[str, str]:
    """Return the versions of this package and of those that decide its results, as far as they are installed."""
    installed = installed_distributions()
    names = (OURS, 'torch', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation')
    return {name: installed[name].version for name in names if name in installed}


def cpu() -> tuple[str, list[str]]:
    """(model, those of its instruction sets that make fp16, bf16 and int8 fast)."""
    try:
        text = Path('/proc/cpuinfo').read_text(encoding='utf-8')
    except OSError:
        name = ''
        if sys.platform == 'darwin':
            command = ['sysctl', '-n', 'machdep.cpu.brand_string']
            name = subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
        return name or platform.processor() or platform.machine(), []
    model = re.search(r'^model name\s*: (.*)$', text, re.MULTILINE)
    flags = re.search(r'^(?:flags|Features)\s*: (.*)$', text, re.MULTILINE)
    known = set(flags[1].split()) if flags else set()
    return model[1] if model else platform.machine(), [flag for flag in _LOW_PRECISION if flag in known]
