"""Runs README.md and docs/: each command and each example, in order, as a newcomer would, on small data."""

import itertools
import json
import re
import shlex
import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from repvgg_seg import RepVGGClassifier, Variant
from repvgg_seg.models import variants
from tests.conftest import CONFIGS, randomise, tool

REPO = Path(__file__).resolve().parents[1]
PAGES = [REPO / 'README.md', *sorted((REPO / 'docs').glob('*.md'))]
CODE = re.compile(r'^```(bash|python)\n(.*?)^```', re.MULTILINE | re.DOTALL)
PRETRAINING = (
    'model.num_classes=3', 'train_cfg.max_epochs=1', 'train_dataloader.batch_size=8',
    'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0',
    'train_dataloader.dataset.resolution=32', 'val_dataloader.dataset.resolution=32',
)  # fmt: skip


def expanded(name: str) -> list[str]:
    """Return the names that one with braces stands for, as in a shell: a_{b,c}.py is a_b.py and a_c.py."""
    parts = [part.split(',') for part in re.split('[{}]', name)]
    return [''.join(choice) for choice in itertools.product(*parts)]


@pytest.fixture
def home(tmp_path, monkeypatch, demo_data, folders, local_files) -> Path:
    """The working directory, in which the relative paths of the pages exist."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'configs').symlink_to(REPO / 'configs')
    cv2.imwrite('street.png', cv2.imread(str(next(demo_data.rglob('*_leftImg8bit.png')))))
    (tmp_path / 'photos').mkdir()
    shutil.copy('street.png', 'photos')
    shutil.copy(local_files['.onnx'], 'model.onnx')
    (tmp_path / 'data/mine/coloured').mkdir(parents=True)
    cv2.imwrite('data/mine/coloured/a.png', np.array([[0, 255, 128]], np.uint8))
    # As the pages' networks, without most of their blocks and channels: the first two stages are those of `trained`.
    small = Variant('RepVGG-A0', (2, 4, 1, 1), (0.75, 0.75, 0.125, 0.125))
    monkeypatch.setattr(variants, 'VARIANTS', {**variants.VARIANTS, 'RepVGG-A0': small})
    [classes] = re.findall(r'^```json\n(.*?)^```', (REPO / 'docs/data.md').read_text(), re.MULTILINE | re.DOTALL)
    (tmp_path / 'data/mine/classes.json').write_text(classes)
    (tmp_path / 'exports/labelme').mkdir(parents=True)
    for name in 'ab':
        shutil.copy('street.png', f'exports/labelme/{name}.png')
        shape = {'label': 'road', 'points': [[0, 0], [20, 0], [20, 9]]}
        labels = {'shapes': [shape], 'imagePath': f'{name}.png'}
        (tmp_path / f'exports/labelme/{name}.json').write_text(json.dumps(labels))
    (tmp_path / 'data/imagenet').symlink_to(folders)
    torch.save(randomise(RepVGGClassifier('RepVGG-A0')).state_dict(), 'RepVGG-A0-train.pth')
    return tmp_path


def run(command: str, tiny_config: Path, capsys) -> None:
    """Run a command of a page in this process, smaller than it is; those for Cityscapes must say that it is absent."""
    words = shlex.split(command)
    name = re.search(r'tools/(\w+)\.py', command)[1]
    argv = words[words.index(f'tools/{name}.py') + 1 :]
    if name == 'make_demo_data':
        argv += ['--train', '2', '--val', '1', '--size', '32x64', '--workers', '1']
    if name == 'pretrain_imagenet':  # on three classes, small and short, and alone
        argv = [word for word in argv if word not in ('--launcher', 'pytorch')]
        argv += ['--cfg-options', *PRETRAINING]
    if argv[0] == 'classifiers':
        argv += ['--size', '32x32', '--batch', '2', '--runs', '1', '--runtimes', 'torch fp32']
    argv = [str(tiny_config) if word == 'configs/pspnet_repvgg_a0_demo.py' else word for word in argv]
    status = tool(name)(argv)
    message = capsys.readouterr().err
    if 'cityscapes' in command:
        assert status == 2 and re.search(r'data/cityscapes(/leftImg8bit/train)? does not exist', message), command
    else:
        assert status == 0, f'{command}: {message}'


@pytest.mark.parametrize('page', [page for page in PAGES if CODE.search(page.read_text())], ids=lambda page: page.stem)
def test_every_command_and_example_runs(page, home, tiny_config, trained, deployed, capsys) -> None:
    if page.name != 'README.md':  # which makes them
        shutil.copytree(trained, 'work_dirs/demo')
        shutil.copytree(deployed, 'work_dirs/demo/deploy')
    for language, code in CODE.findall(page.read_text()):
        if language == 'python':
            exec(compile(code, page.name, 'exec'), {})
            continue
        for command in code.splitlines():
            run(command, tiny_config, capsys)
    for result in {
        'README': ['work_dirs/demo/deploy/report.json', 'masks/index', 'masks/overlay'],
        'data': ['data/imported/classes.json', 'data/mine/masks/a.png', 'work_dirs/demo/browse'],
        'deploy': [
            'overlays/vis/street.png',
            'street_overlay.png',
            'work_dirs/demo/deploy/model.onnx',
            'masks/index',
            'published/README.md',
        ],
        'pretrain': ['work_dirs/a0/deploy.pth', 'a0_for_timm.safetensors'],
    }.get(page.stem, ()):
        assert (home / result).exists(), result
    if page.stem == 'data':
        assert cv2.imread('data/mine/masks/a.png', cv2.IMREAD_UNCHANGED).tolist() == [[0, 1, 255]]


def test_the_pages_have_commands_and_examples() -> None:
    code = [CODE.findall(page.read_text()) for page in PAGES]
    commands = [
        line for blocks in code for language, text in blocks if language == 'bash' for line in text.splitlines()
    ]
    assert len(commands) >= 30 and sum(language == 'python' for blocks in code for language, _ in blocks) >= 6
    tools = {path.stem for path in (REPO / 'tools').glob('*.py')}
    assert {re.search(r'tools/(\w+)\.py', command)[1] for command in commands} == tools


def sources(config: Path) -> str:
    """Return the text of a config and of all that it is based on."""
    text = config.read_text()
    names = re.findall(
        r"'([^']+\.py)'", (re.findall(r'^_base_ = \[(.*?)\]', text, re.MULTILINE | re.DOTALL) or [''])[0]
    )
    return text + ''.join(sources(config.parent / name) for name in names)


def test_every_config_is_listed_and_says_its_command_cost_and_result() -> None:
    page = (REPO / 'docs/train.md').read_text()
    listed = {name for code in re.findall(r'`([\w{},]+\.py)`', page) for name in expanded(code)}
    assert {path.name for path in CONFIGS} == {
        name for name in listed if name.startswith(('fastseg_', 'pspnet_', 'upernet_'))
    }
    for path in CONFIGS:
        for fact in ('python tools/train.py configs/', 'Cost: ', 'Expect: '):  # by itself or by one base
            assert len(re.findall(rf'^# {fact}', sources(path), re.MULTILINE)) == 1, (path, fact)


@pytest.mark.parametrize(
    'page', [*PAGES, REPO / 'CONTRIBUTING.md', REPO / 'pretrained/README.md'], ids=lambda page: page.stem
)
def test_every_link_and_make_target_exists(page) -> None:
    text = page.read_text()
    prose = re.sub(r'^```.*?^```', '', text, flags=re.MULTILINE | re.DOTALL)
    assert not re.search(r'^[A-Z]+$', prose, re.MULTILINE)  # no placeholder was left
    for target, anchor in re.findall(r'\]\((?!http)([^)#]*)#?([^)]*)\)', prose):
        path = (page.parent / target).resolve() if target else page
        assert path.exists(), target
        if anchor:
            titles = re.findall(r'^#+ (.*)$', path.read_text(), re.MULTILINE)
            assert anchor in {re.sub(r'[^\w -]', '', title).lower().replace(' ', '-') for title in titles}, anchor
    makefile = (REPO / 'Makefile').read_text()
    for target in re.findall(r'`make (\w+)|^make (\w+)', text, re.MULTILINE):
        assert re.search(rf'^{"".join(target)}:', makefile, re.MULTILINE), target


def test_no_text_says_that_an_index_has_the_package() -> None:
    """An index does not have it: a wheel or a checkout is what pip is given."""
    texts = [*PAGES, REPO / 'CONTRIBUTING.md', REPO / 'setup.cfg', *(REPO / 'repvgg_seg').rglob('*.py')]
    for path in texts:
        assert not re.search(r'pip install [^`\n]*\brepvgg[-_]seg(?!-\*)', path.read_text()), path
