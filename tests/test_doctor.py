"""The doctor names every fault and its cure, and is never brought down by one."""

from __future__ import annotations

import base64
import hashlib
import importlib.metadata
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from repvgg_seg import doctor
from repvgg_seg.cli import main
from repvgg_seg.doctor import Problem, check_distributions, find_problems

REPOSITORY = Path(__file__).resolve().parents[1]

# A healthy installation: every distribution the doctor asks for, at versions that are well inside our ranges.
HEALTHY = {
    'torch': '2.15.0',
    'torchvision': '0.29.2',
    'onedl-mmengine': '0.10.12',
    'onedl-mmcv': '2.3.6',
    'onedl-mmsegmentation': '1.4.2',
    'albumentations': '2.0.8',
    'opencv-python': '5.0.0.93',
    'opencv-python-headless': '5.0.0.93',
    'numpy': '2.4.6',
    'pillow': '13.0.0',
    'matplotlib': '3.11.2',
    'jinja2': '3.1.6',
    'rich': '15.0.0',
    'packaging': '26.3',
}


class Site:
    """A folder of made-up distributions that stands in for site-packages."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def install(self, name: str, version: str, files: dict[str, bytes] | None = None, requires: str = '') -> None:
        record = ''
        for path, content in (files or {}).items():
            target = self.root / path
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(content)
            digest = base64.urlsafe_b64encode(hashlib.sha256(content).digest()).rstrip(b'=').decode()
            record += f'{path},sha256={digest},{len(content)}\n'
        info = self.root / f'{name.replace("-", "_")}-{version}.dist-info'
        info.mkdir()
        needs = f'Requires-Dist: {requires}\n' if requires else ''
        (info / 'METADATA').write_text(f'Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n{needs}')
        (info / 'RECORD').write_text(record)

    def uninstall(self, name: str) -> None:
        for info in self.root.glob(f'{name.replace("-", "_")}-*.dist-info'):
            for file in info.iterdir():
                file.unlink()
            info.rmdir()


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Site:
    site = Site(tmp_path)
    for name, version in HEALTHY.items():
        site.install(name, version)
    found = importlib.metadata.Distribution.discover
    monkeypatch.setattr(importlib.metadata, 'distributions', lambda: found(path=[str(tmp_path)]))
    # The requirements under test are the checkout's, whatever is installed where the tests run.
    monkeypatch.setattr(doctor, '_own_metadata', doctor._own_setup)
    return site


def only(problems: list[Problem]) -> Problem:
    assert len(problems) == 1, problems
    return problems[0]


def test_healthy_metadata_has_no_problem(site: Site) -> None:
    assert check_distributions() == []


@pytest.mark.parametrize(
    ('original', 'version', 'ours'),
    [
        ('mmcv', '2.1.0', 'onedl-mmcv'),
        ('mmcv-lite', '2.1.0', 'onedl-mmcv'),
        ('mmcv-full', '1.7.2', 'onedl-mmcv'),
        ('mmengine', '0.10.7', 'onedl-mmengine'),
        ('mmsegmentation', '1.2.2', 'onedl-mmsegmentation'),
    ],
)
def test_original_beside_maintained_is_a_collision(site: Site, original: str, version: str, ours: str) -> None:
    site.install(original, version)
    problem = only(check_distributions())
    assert f'{original} and {ours} are both installed' in problem.cause
    assert f'uninstall -y {original} && ' in problem.cure
    assert problem.cure.endswith(f"install --force-reinstall --no-deps '{ours}=={HEALTHY[ours]}'")


def test_original_in_the_place_of_the_maintained_is_reported_once(site: Site) -> None:
    site.uninstall('onedl-mmcv')
    site.install('mmcv', '2.1.0')
    problem = only(check_distributions())
    assert 'mmcv is the original mmcv' in problem.cause
    assert 'uninstall -y mmcv && ' in problem.cure
    assert "'onedl-mmcv'" in problem.cure


@pytest.mark.parametrize('damage', ['removed', 'overwritten'])
def test_files_lost_to_a_removed_original_are_noticed(site: Site, damage: str) -> None:
    site.uninstall('onedl-mmcv')
    site.install('onedl-mmcv', '2.3.6', {'mmcv/__init__.py': b'', 'mmcv/version.py': b'version = "2.3.6"'})
    assert check_distributions() == []
    file = site.root / 'mmcv/version.py'
    if damage == 'removed':
        file.unlink()
    else:
        file.write_text('version = "2.1.0"')
    problem = only(check_distributions())
    assert 'mmcv/version.py of onedl-mmcv was removed or overwritten' in problem.cause
    assert problem.cure.endswith("install --force-reinstall --no-deps 'onedl-mmcv==2.3.6'")


def test_version_out_of_range_is_reported_with_the_range(site: Site) -> None:
    site.uninstall('albumentations')
    site.install('albumentations', '1.4.24')
    problem = only(check_distributions())
    assert problem.cause == 'albumentations 1.4.24 is installed, but repvgg-seg needs >=2.0.8'
    assert problem.cure.endswith("install 'albumentations>=2.0.8'")


def test_missing_package_is_reported(site: Site) -> None:
    site.uninstall('onedl-mmengine')
    problem = only(check_distributions())
    assert problem.cause == 'onedl-mmengine is not installed'
    assert "install 'onedl-mmengine>=" in problem.cure


def test_optional_package_may_be_missing_but_not_too_old(site: Site) -> None:
    site.install('openvino', '2023.0.0')
    assert 'openvino 2023.0.0 is installed' in check_distributions()[0].cause


@pytest.mark.parametrize('name', ['opencv-python', 'opencv-python-headless'])
def test_one_opencv_is_enough(site: Site, name: str) -> None:
    site.uninstall(name)
    assert check_distributions() == []


def test_no_opencv_is_a_problem(site: Site) -> None:
    site.uninstall('opencv-python')
    site.uninstall('opencv-python-headless')
    assert {p.cause for p in check_distributions()} == {
        'opencv-python is not installed',
        'opencv-python-headless is not installed',
    }


@pytest.mark.parametrize('double', ['opencv-python', 'opencv-contrib-python'])
def test_two_opencv_versions_collide(site: Site, double: str) -> None:
    site.uninstall(double)
    site.install(double, '4.13.0.92')
    problem = only(check_distributions())
    assert f'{double} 4.13.0.92' in problem.cause
    assert 'opencv-python-headless 5.0.0.93' in problem.cause
    assert problem.cure.endswith("install --no-deps 'opencv-python-headless==5.0.0.93'")


def test_torchvision_that_declares_another_torch_is_reported(site: Site) -> None:
    site.uninstall('torchvision')
    site.install('torchvision', '0.21.0', requires='torch==2.6.0')
    problem = only(check_distributions())
    assert problem.cause == 'torchvision 0.21.0 needs torch==2.6.0, but torch 2.15.0 is installed'
    assert problem.cure.endswith('install torch torchvision')


def test_unsupported_python_is_reported(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor.platform, 'python_version', lambda: '3.9.18')
    assert 'This is Python 3.9.18, but repvgg-seg needs >=3.10' in only(check_distributions()).cause


def test_record_without_metadata_is_survived(site: Site) -> None:
    (site.root / 'torch-2.14.0.dist-info').mkdir()
    (site.root / '~orch-2.14.0.dist-info').mkdir()
    assert check_distributions() == []


def test_the_answering_opencv_is_found_by_its_hash(site: Site) -> None:
    for name in ('opencv-python', 'opencv-python-headless'):
        site.uninstall(name)
        site.install(name, '5.0.0.93', {'cv2/cv2.abi3.so': name.encode()})
    assert doctor._answering_opencv(doctor.installed_distributions()) == 'opencv-python-headless'
    (site.root / 'cv2/cv2.abi3.so').write_bytes(b'opencv-python')
    assert doctor._answering_opencv(doctor.installed_distributions()) == 'opencv-python'
    (site.root / 'cv2/cv2.abi3.so').write_bytes(b'a third one')
    assert doctor._answering_opencv(doctor.installed_distributions()) == ''


def test_running_a_model_needs_neither_torch_nor_openmmlab(site: Site) -> None:
    for name in ('torch', 'torchvision', 'onedl-mmengine', 'onedl-mmcv', 'onedl-mmsegmentation', 'opencv-python'):
        site.uninstall(name)
    site.install('mmcv', '2.1.0')
    assert check_distributions(doctor.RUNTIME) == []
    site.uninstall('pillow')
    assert only(check_distributions(doctor.RUNTIME)).cause == 'pillow is not installed'
    site.install('openvino', '2023.0.0')
    assert 'openvino 2023.0.0 is installed' in check_distributions(doctor.RUNTIME)[-1].cause


def test_the_runtime_requirements_are_those_of_the_lock() -> None:
    lock = [line.removesuffix(' \\') for line in (REPOSITORY / 'requirements.lock').read_text().splitlines()]
    pins = [line for line in (REPOSITORY / 'requirements-runtime.txt').read_text().splitlines() if line[0] != '#']
    assert set(pins) < set(lock)
    names = {pin.partition('==')[0] for pin in pins}
    assert names >= doctor.RUNTIME - {'onnxruntime'} and not names & {'torch', 'onedl-mmcv'}
    for name in names:  # pip is told not to look for what they need in turn
        for line in importlib.metadata.requires(name) or ():
            requirement = Requirement(line)
            assert requirement.name.lower() in names or 'extra' in str(requirement.marker), f'{name} needs {line}'


def test_requirements_are_the_declared_ones() -> None:
    python, lines = doctor._own_setup()
    assert python == '>=3.10'
    assert 'torch>=2.6' in lines
    assert any(line.startswith('onnx>=') and line.endswith('extra == "export"') for line in lines)
    assert not any('#' in line for line in lines)


def test_every_extra_is_listed_with_what_it_lacks_and_what_it_is_for(site: Site, monkeypatch, capsys) -> None:
    lines = doctor._own_setup()[1]
    declared = set(re.findall(r'extra == "(\w+)"', '\n'.join(lines)))
    assert declared - {'dev'} == set(doctor.EXTRAS)
    failing(monkeypatch, {})
    for name in ('av', 'pycocotools'):
        site.install(name, '19.0.2')
    main(['doctor', '--runtime'])
    rows = dict(re.findall(r'^extra (\w+) +(.*)$', capsys.readouterr().out, re.MULTILINE))
    assert rows.keys() == doctor.EXTRAS.keys()
    assert rows['video'] == 'complete; to write videos that browsers play'
    assert rows['labels'].startswith("not installed: pyyaml (`python -m pip install '.[labels]'` in a checkout")
    assert rows['serve'].startswith('not installed: gradio (') and rows['serve'].endswith(doctor.EXTRAS['serve'])


def failing(monkeypatch: pytest.MonkeyPatch, errors: dict[str, BaseException]) -> list[str]:
    """Replaces the imports by these failures; returns the list of modules that will have been tried."""
    tried: list[str] = []

    def attempt(module: str) -> BaseException | None:
        tried.append(module)
        return errors.get(module)

    monkeypatch.setattr(doctor, '_import_error', attempt)
    return tried


def test_mismatched_torchvision_is_explained(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    tried = failing(monkeypatch, {'torchvision': RuntimeError('operator torchvision::nms does not exist')})
    problem = only(find_problems())
    assert 'not a pair from one index' in problem.cause
    assert problem.cure.endswith('install torch torchvision')
    assert 'mmcv' in tried and 'mmseg.models' not in tried  # what torchvision drags along is not reported again


def test_each_independent_failure_is_reported(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    failing(
        monkeypatch,
        {'cv2': ImportError('libGL.so.1: cannot open shared object'), 'torch': OSError('libcudart')},
    )
    causes = [problem.cause for problem in find_problems()]
    assert len(causes) == 2
    assert 'import torch fails' in causes[0]
    assert 'no display libraries' in causes[1]


def test_leftover_folder_does_not_pass_for_a_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'leftover_of_a_package').mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    assert 'only leftovers' in str(doctor._import_error('leftover_of_a_package'))


def test_package_that_exits_on_import_is_survived(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / 'package_that_exits.py').write_text('raise SystemExit(3)')
    monkeypatch.syspath_prepend(str(tmp_path))
    assert isinstance(doctor._import_error('package_that_exits'), SystemExit)


def run_doctor(folder: Path, *paths: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, '-m', 'repvgg_seg.doctor'],
        cwd=folder,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(map(str, (*paths, REPOSITORY)))},
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def test_this_environment_is_healthy(tmp_path: Path) -> None:
    done = run_doctor(tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'Everything works together.' in done.stdout
    for row in ('torch ', 'onedl-mmsegmentation ', 'CPU ', 'OpenCV that answers '):
        assert f'\n{row}' in done.stdout


def test_the_report_can_be_about_running_models(monkeypatch: pytest.MonkeyPatch, capsys, site: Site) -> None:
    site.uninstall('torch')
    failing(monkeypatch, {'torch': ImportError('x'), 'mmcv': ImportError('x')})
    assert main(['doctor', '--runtime']) == 0
    message = capsys.readouterr().out
    assert '\nnumpy ' in message and '\ntorch ' not in message and 'Exported files run here' in message
    assert main(['doctor']) == 1


def test_opencv_without_display_libraries_is_cured(tmp_path: Path) -> None:
    # Empty stand-ins for everything else: what is under test is the command's answer, not seconds of imports.
    for module, _, _ in doctor._IMPORTS:
        package, _, inner = module.partition('.')
        (tmp_path / package).mkdir()
        (tmp_path / package / '__init__.py').write_text('')
        if inner:
            (tmp_path / package / f'{inner}.py').write_text('')
    message = 'libGL.so.1: cannot open shared object file: No such file or directory'
    (tmp_path / 'cv2/__init__.py').write_text(f'raise ImportError({message!r})')
    done = run_doctor(tmp_path, tmp_path)
    assert done.returncode == 1, done.stdout + done.stderr
    assert message in done.stdout
    version = importlib.metadata.version('opencv-python-headless')
    assert f"install --force-reinstall --no-deps 'opencv-python-headless=={version}'" in done.stdout
    assert 'Traceback' not in done.stderr


def test_importing_the_doctor_imports_nothing_heavy() -> None:
    code = 'import sys, repvgg_seg.doctor as d; d.check_distributions(); print(*sys.modules)'
    done = subprocess.run([sys.executable, '-c', code], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert not {'torch', 'numpy', 'cv2', 'mmcv', 'mmengine', 'mmseg'} & set(done.stdout.split())


def test_licences_are_those_that_packages_tell(capsys) -> None:
    assert main(['doctor', '--licenses']) == 0
    rows = dict(re.split('  +', line, maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert rows['pillow'].endswith('MIT-CMU') and rows['numpy'].split()[1].startswith('BSD')
    assert len(rows) > 50 and rows['torch'].startswith(importlib.metadata.version('torch'))


def test_every_file_of_the_lock_has_its_hash() -> None:
    lock = (REPOSITORY / 'requirements.lock').read_text()
    pins = re.findall(r'^[\w.-]+==.*', lock, re.MULTILINE)
    assert len(pins) > 100 and all(pin.endswith(' \\') for pin in pins)
    assert len(re.findall(r'--hash=sha256:[0-9a-f]{64}', lock)) >= len(pins)
