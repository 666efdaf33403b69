"""Say what is installed, on which devices it runs and what is wrong with it, with the command that cures it.

    repvgg-seg doctor
    python -m repvgg_seg.doctor

The exit status is 1 if something is wrong.
"""

from __future__ import annotations

import argparse
import base64
import configparser
import csv
import hashlib
import importlib
import importlib.metadata
import os
import platform
import re
import shlex
import sys
import warnings
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import Distribution
from pathlib import Path
from typing import TYPE_CHECKING

from .environment import OURS, canonical, cpu, installed_distributions, is_runtime_only, licences
from .runtime.precision import PRECISIONS
from .terminal import say

if TYPE_CHECKING:
    from packaging.requirements import Requirement

# Optional packages, by the extra of setup.cfg that brings them, and what they are for.
EXTRAS = {
    'export': 'to write ONNX and OpenVINO files, and run them',
    'quantize': 'to write int8 files',
    'labels': 'to import labels, and write polygons',
    'video': 'to write videos that browsers play',
    'hub': "to open models from Hugging Face's hub",
    'serve': 'for the page to try a model on',
}
_PIP = f'{shlex.quote(sys.executable)} -m pip'

# Module -> its maintained distribution, and the original ones, which write the same files.
_FAMILIES = {
    'mmengine': ('onedl-mmengine', ('mmengine', 'mmengine-lite')),
    'mmcv': ('onedl-mmcv', ('mmcv', 'mmcv-lite', 'mmcv-full')),
    'mmseg': ('onedl-mmsegmentation', ('mmsegmentation',)),
}
# All of them write one folder, `cv2`. The first two are required by others; either is enough.
_HEADLESS = 'opencv-python-headless'
_OPENCV = (_HEADLESS, 'opencv-python', 'opencv-contrib-python-headless', 'opencv-contrib-python')

# What running an exported model needs: requirements-runtime.txt. One of the last two is enough, or torch.
RUNTIME = frozenset({'numpy', 'pillow', _HEADLESS, 'rich', 'packaging', 'openvino', 'onnxruntime'})

# (module, distribution, modules it cannot do without), prerequisites first: what a broken one drags along is
# not reported again. `import mmseg` loads nothing; `mmseg.models` is what a config touches.
_IMPORTS = (
    ('numpy', 'numpy', ()),
    ('torch', 'torch', ()),
    ('torchvision', 'torchvision', ('torch',)),
    ('PIL.Image', 'pillow', ()),
    ('matplotlib', 'matplotlib', ('numpy',)),
    ('rich', 'rich', ()),
    ('cv2', _HEADLESS, ('numpy',)),
    ('albumentations', 'albumentations', ('cv2',)),
    ('mmengine', 'onedl-mmengine', ('torch', 'matplotlib', 'rich')),
    ('mmcv', 'onedl-mmcv', ('cv2', 'mmengine')),
    ('mmseg.models', 'onedl-mmsegmentation', ('mmcv', 'torchvision')),
)


@dataclass(frozen=True)
class Problem:
    """One problem, and the command that cures it."""

    cause: str
    cure: str

    def __str__(self) -> str:
        return f'{self.cause}\n   cure: {self.cure}'


def check_distributions(needs: Collection[str] | None = None) -> list[Problem]:
    """All that metadata can show: packages missing, outside of our versions, colliding or overwritten.

    Imports none of them, so it is cheap and no broken package can bring it down. `needs` are the distributions that
    count, such as RUNTIME; None: all.
    """
    installed = installed_distributions()
    families = _check_families(installed) if needs is None else ()
    return [*_check_versions(installed, needs), *families, *_check_opencv(installed)]


def find_problems(needs: Collection[str] | None = None) -> list[Problem]:
    """`check_distributions`, then imports every package for real, each on its own; takes some seconds."""
    # albumentations asks the package index for news at every import, and waits where there is no network.
    os.environ.setdefault('NO_ALBUMENTATIONS_UPDATE', '1')
    installed = installed_distributions()
    problems = check_distributions(needs)
    broken: set[str] = set()
    for module, name, prerequisites in _IMPORTS:
        if needs is not None and name not in needs:
            continue
        missing = name not in installed and not (name in _OPENCV and _some_opencv(installed))
        error = None if missing or broken.intersection(prerequisites) else _import_error(module)
        if error is not None:
            problem = _explain(module, name, error, installed)
            # A package whose record is already known to be bad fails for that reason; one cure is enough.
            if not any(problem.cure in known.cure for known in problems):
                problems.append(problem)
        if missing or error is not None or broken.intersection(prerequisites):
            broken.add(module.partition('.')[0])
    if 'cv2' not in broken and _answering_opencv(installed) == '':
        cause = 'The folder cv2 holds no OpenCV build that is on record: another one was written over it'
        problems.append(Problem(cause, _headless_cure(installed)))
    return problems


# ---- metadata


def _own_metadata() -> tuple[str, list[str]]:
    """(supported Python versions, requirements) as this package declares them."""
    try:
        own = importlib.metadata.metadata(OURS)
    except importlib.metadata.PackageNotFoundError:
        return _own_setup()
    return own['Requires-Python'] or '', own.get_all('Requires-Dist') or []


def _own_setup() -> tuple[str, list[str]]:
    """The same from setup.cfg: tools also run from a checkout that was never installed."""
    setup = configparser.ConfigParser()
    setup.read_dict({'options': {}, 'options.extras_require': {}})
    setup.read(Path(__file__).parents[1] / 'setup.cfg', encoding='utf-8')
    lines = setup['options'].get('install_requires', '').split('\n')
    for extra, text in setup['options.extras_require'].items():
        lines += [f'{line}; extra == "{extra}"' for line in text.split('\n') if line]
    return setup['options'].get('python_requires', ''), [line for line in lines if line]


def _requirements() -> list[tuple[Requirement, str]]:
    """(requirement, the extra that asks for it or '') for this machine."""
    from packaging.requirements import Requirement

    found = []
    for line in _own_metadata()[1]:
        requirement = Requirement(line)
        for extra in ('', *EXTRAS):
            if requirement.marker is None or requirement.marker.evaluate({'extra': extra}):
                found.append((requirement, extra))
                break
    return found


def _check_versions(installed: Mapping[str, Distribution], needs: Collection[str] | None) -> Iterator[Problem]:
    try:
        from packaging.requirements import Requirement
        from packaging.specifiers import SpecifierSet
    except ImportError:
        cause = 'packaging is missing or broken, so no version can be checked'
        yield Problem(cause, f'{_PIP} install --force-reinstall packaging')
        return
    python, wanted = platform.python_version(), SpecifierSet(_own_metadata()[0])
    if not wanted.contains(python, prereleases=True):
        yield Problem(f'This is Python {python}, but {OURS} needs {wanted}', 'make setup PYTHON=python3.12')
    # Originals in the place of a maintained distribution: `_check_families` has the whole cure.
    replaced = {ours for ours, originals in _FAMILIES.values() if installed.keys() & {*originals}}
    for requirement, extra in _requirements():
        name = canonical(requirement.name)
        if needs is not None and name not in needs:
            continue
        cure = f"{_PIP} install '{requirement.name}{requirement.specifier}'"
        if name in installed:
            version = installed[name].version
            if not requirement.specifier.contains(version, prereleases=True):
                cause = f'{name} {version} is installed, but {OURS} needs {requirement.specifier}'
                yield Problem(cause, cure)
        elif not (extra or name in replaced or (name in _OPENCV and _some_opencv(installed))):
            yield Problem(f'{name} is not installed', cure)
    if needs is None and 'torch' in installed and 'torchvision' in installed:
        torch, vision = installed['torch'].version, installed['torchvision']
        for needed in map(Requirement, vision.requires or ()):
            if needed.name == 'torch' and not needed.specifier.contains(torch, prereleases=True):
                cause = f'torchvision {vision.version} needs {needed}, but torch {torch} is installed'
                yield Problem(cause, _pair_cure())


def _check_families(installed: Mapping[str, Distribution]) -> Iterator[Problem]:
    """Originals write the files of maintained distributions and break them, even when they are gone again."""
    for module, (ours, originals) in _FAMILIES.items():
        reinstall = f"{_PIP} install --force-reinstall --no-deps '{_pinned(ours, installed)}'"
        intruders = [name for name in originals if name in installed]
        listed = ' and '.join(intruders)
        cure = f'{_PIP} uninstall -y {" ".join(intruders)} && {reinstall}'
        if intruders and ours in installed:
            yield Problem(f'{listed} and {ours} are both installed and overwrite the module {module}', cure)
        elif intruders:
            yield Problem(f'{module} is the original {listed}, which does not work with current torch', cure)
        elif ours in installed:
            for path in (f'{module}/__init__.py', f'{module}/version.py'):
                if _is_intact(installed[ours], path) is False:
                    yield Problem(f'{path} of {ours} was removed or overwritten', reinstall)
                    break


def _check_opencv(installed: Mapping[str, Distribution]) -> Iterator[Problem]:
    builds = {name: installed[name].version for name in _OPENCV if name in installed}
    if len(set(builds.values())) > 1:
        newest = max(builds.values(), key=lambda version: [int(part) for part in re.findall(r'\d+', version)])
        yield Problem(
            f'Different versions of OpenCV share the folder cv2: {", ".join(map(" ".join, builds.items()))}',
            f"{_PIP} uninstall -y {' '.join(builds)} && {_PIP} install --no-deps '{_HEADLESS}=={newest}'",
        )


def _some_opencv(installed: Mapping[str, Distribution]) -> bool:
    return any(name in installed for name in _OPENCV)


def _answering_opencv(installed: Mapping[str, Distribution]) -> str | None:
    """The distribution whose library lies in `cv2`; '' if it is of none, None if no record says."""
    verdicts = {
        name: _is_intact(installed[name], path)
        for name in _OPENCV
        if name in installed
        for path in _recorded(installed[name])
        if re.fullmatch(r'cv2/cv2[^/]*\.(so|pyd)', path)
    }
    answering = next((name for name, intact in verdicts.items() if intact), '')
    return answering or (None if None in verdicts.values() or not verdicts else '')


def _recorded(distribution: Distribution) -> dict[str, str]:
    """Path -> 'sha256=...' from RECORD; `Distribution.files` hides missing files, which are what is looked for here."""
    lines = (distribution.read_text('RECORD') or '').splitlines()
    return {row[0]: row[1] for row in csv.reader(lines) if len(row) == 3}


def _is_intact(distribution: Distribution, path: str) -> bool | None:
    """Whether a file is still the installed one; None where no record says (editable installs, conda)."""
    recorded = _recorded(distribution).get(path, '')
    if not recorded.startswith('sha256='):
        return None
    file = Path(str(distribution.locate_file(path)))
    if not file.is_file():
        return False
    digest = hashlib.sha256(file.read_bytes()).digest()
    return recorded == 'sha256=' + base64.urlsafe_b64encode(digest).rstrip(b'=').decode()


# ---- imports


def _import_error(module: str) -> BaseException | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')
            found = importlib.import_module(module)
    except (Exception, SystemExit) as error:
        return error
    # After an uninstallation a folder of leftovers imports without complaint, as an empty namespace.
    return None if getattr(found, '__file__', None) else ImportError(f'only leftovers of {module} are there')


def _explain(module: str, name: str, error: BaseException, installed: Mapping[str, Distribution]) -> Problem:
    text = str(error).strip().split('\n')[0]
    cause = f'import {module} fails: {type(error).__name__}: {text}'
    if module == 'cv2':
        if re.search(r'lib(GL|EGL|gthread|glib|xcb|X11|SM|ICE)\b', text):
            cause += ' (the OpenCV build with windows answers, and this machine has no display libraries)'
        return Problem(cause, _headless_cure(installed))
    if module in ('torch', 'torchvision'):
        if 'operator torchvision::' in text:
            cause += ' (torch and torchvision are not a pair from one index)'
        return Problem(cause, _pair_cure())
    return Problem(cause, f"{_PIP} install --force-reinstall --no-deps '{_pinned(name, installed)}'")


def _pinned(name: str, installed: Mapping[str, Distribution]) -> str:
    return f'{name}=={installed[name].version}' if name in installed else name


def _headless_cure(installed: Mapping[str, Distribution]) -> str:
    # One version for all builds, see `_check_opencv`.
    version = next((f'=={installed[name].version}' for name in _OPENCV if name in installed), '')
    return f"{_PIP} install --force-reinstall --no-deps '{_HEADLESS}{version}'"


def _pair_cure() -> str:
    return f'{_PIP} uninstall -y torch torchvision && {_PIP} install torch torchvision'


# ---- the report


def _versions(installed: Mapping[str, Distribution], needs: Collection[str] | None) -> Iterator[tuple[str, str]]:
    yield 'python', f'{platform.python_version()} ({sys.executable})'
    yield 'platform', platform.platform()
    yield OURS, installed[OURS].version if OURS in installed else 'runs from a checkout, not installed'
    try:
        requirements = _requirements()
    except ImportError:
        return
    versions: dict[str, str] = {}
    missing: dict[str, list[str]] = {}
    for requirement, extra in requirements:
        name = canonical(requirement.name)
        if extra:
            missing.setdefault(extra, []).extend([] if name in installed else [name])
        if (needs is None or name in needs) and (name in installed or not extra):
            versions[name] = installed[name].version if name in installed else 'not installed'
    yield from versions.items()
    for extra, names in missing.items():
        lacks = f"not installed: {', '.join(names)} (`python -m pip install '.[{extra}]'` in a checkout brings it)"
        yield f'extra {extra}', f'{lacks if names else "complete"}; {EXTRAS[extra]}'


def _devices() -> Iterator[tuple[str, str]]:
    model, features = cpu()
    usable = len(os.sched_getaffinity(0)) if hasattr(os, 'sched_getaffinity') else os.cpu_count()
    bf16 = '' if PRECISIONS['bf16'].fast_on_this_cpu() else 'no bf16: there --amp trains in float32'
    yield 'CPU', ', '.join(filter(None, [model, f'{usable} of {os.cpu_count()} cores', *features, bf16]))
    torch = sys.modules.get('torch')
    if torch is None or not hasattr(torch, 'cuda'):
        return
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            device = torch.cuda.get_device_properties(index)
            bf16 = 'bf16' if torch.cuda.is_bf16_supported() else 'no bf16'
            memory = f'{device.total_memory / 2**30:.0f} GiB'
            yield f'cuda:{index}', f'{device.name}, {memory}, CUDA {torch.version.cuda}, {bf16}'
    else:
        yield 'CUDA', 'no device' if torch.version.cuda else 'this torch is built without it'
    yield 'MPS', 'yes' if torch.backends.mps.is_available() else 'no'


def _opencv(installed: Mapping[str, Distribution]) -> str:
    name = _answering_opencv(installed)
    if not name:
        return 'unknown'
    cv2 = sys.modules.get('cv2')
    if cv2 is None or not hasattr(cv2, 'getBuildInformation'):
        return f'{name} {installed[name].version}, which cannot be imported'
    windows = re.search(r'^\s*GUI:\s*(\S+)', cv2.getBuildInformation(), re.MULTILINE)
    return f'{name} {installed[name].version}, windows: {windows[1] if windows else "unknown"}'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        '--runtime', action='store_true', help='only what running exported files needs (default where torch is missing)'
    )
    parser.add_argument('--licenses', action='store_true', help='list what is installed, under which licence, instead')


def main(args: argparse.Namespace) -> int:
    """Print the report and every problem with its cure; the status is 1 if there is any."""
    if args.licenses:
        for name, (version, licence) in licences().items():
            say(f'{name:32}{version:24}{licence}')
        return 0
    runtime = args.runtime or is_runtime_only()
    needs = RUNTIME if runtime else None
    installed = installed_distributions()
    for name, value in _versions(installed, needs):
        say(f'{name:24}{value}')
    say('', 'Importing all of them ...', '')
    problems = find_problems(needs)
    for name, value in (*_devices(), ('OpenCV that answers', _opencv(installed))):
        say(f'{name:24}{value}')
    say('')
    if not problems:
        say('Everything works together.' if not runtime else 'Exported files run here. Training needs torch and more.')
        return 0
    say(f'{len(problems)} problem{"s" if len(problems) > 1 else ""}:')
    for number, problem in enumerate(problems, 1):
        say(f'{number}. {problem}')
    return 1


if __name__ == '__main__':
    from .cli import main as run

    sys.exit(run(['doctor', *sys.argv[1:]]))
