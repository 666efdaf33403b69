"""Runs the README: each command and each example, in order, as a newcomer would, on small data."""

import itertools
import re
import shlex
import shutil

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config

from repvgg_seg import RepVGGClassifier
from tests.conftest import randomise, tool

PRETRAINING = (
    'model.num_classes=3', 'train_cfg.max_epochs=1', 'train_dataloader.batch_size=8',
    'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0',
    'train_dataloader.dataset.resolution=32', 'val_dataloader.dataset.resolution=32',
)  # fmt: skip


def expanded(name: str) -> list[str]:
    """Return the names that one with braces stands for, as in a shell: a_{b,c}.py is a_b.py and a_c.py."""
    parts = [part.split(',') for part in re.split('[{}]', name)]
    return [''.join(choice) for choice in itertools.product(*parts)]


def blocks(readme: str, language: str) -> list[str]:
    return re.findall(rf'^```{language}\n(.*?)^```', readme, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope='module')
def readme(repo) -> str:
    return (repo / 'README.md').read_text()


@pytest.fixture(scope='module')
def home(tmp_path_factory, repo, trained, demo_data, folders, local_files):
    """A directory in which the README's relative paths exist."""
    home = tmp_path_factory.mktemp('home')
    shutil.copytree(trained, home / 'work_dirs/demo')
    cv2.imwrite(str(home / 'street.png'), cv2.imread(str(next(demo_data.rglob('*_leftImg8bit.png')))))
    torch.save(randomise(RepVGGClassifier('RepVGG-A0')).state_dict(), home / 'RepVGG-A0-train.pth')
    (home / 'data/mine/coloured').mkdir(parents=True)
    cv2.imwrite(str(home / 'data/mine/coloured/a.png'), np.array([[0, 255, 128]], np.uint8))
    (classes,) = blocks((repo / 'README.md').read_text(), 'json')
    (home / 'data/mine/classes.json').write_text(classes)
    (home / 'configs').symlink_to(repo / 'configs')
    (home / 'data/imagenet').symlink_to(folders)
    shutil.copy(local_files['.onnx'], home / 'model.onnx')
    (home / 'photos').mkdir()
    shutil.copy(home / 'street.png', home / 'photos')
    return home


def test_every_command_runs(readme, home, tiny_config, monkeypatch, capsys) -> None:
    monkeypatch.chdir(home)
    commands = [line for block in blocks(readme, 'bash') for line in block.splitlines()]
    assert len(commands) >= 10
    for command in commands:
        words = shlex.split(command)
        name = re.search(r'tools/(\w+)\.py', command)[1]
        argv = words[words.index(f'tools/{name}.py') + 1 :]
        if name == 'make_demo_data':
            argv += ['--train', '2', '--val', '1', '--size', '32x64', '--workers', '1']
        if name == 'pretrain_imagenet':  # on three classes, small and short, and alone
            argv = [word for word in argv if word not in ('--launcher', 'pytorch')]
            argv += ['--cfg-options', *PRETRAINING]
        if argv[0] == 'classifiers':
            argv += ['--size', '32', '--batch', '2', '--runs', '1']
        # The demo's commands run on the tiny data set; those for Cityscapes, which is not here, must say so.
        argv = [str(tiny_config) if word == 'configs/pspnet_repvgg_a0_demo.py' else word for word in argv]
        status = tool(name)(argv)
        said = capsys.readouterr()
        if 'cityscapes' in command:
            assert status == 2 and 'data/cityscapes/leftImg8bit/train does not exist' in said.err, command
        else:
            assert status == 0, f'{command}: {said.err}'
    assert (home / 'work_dirs/demo/deploy/report.json').is_file()
    assert (home / 'work_dirs/a0/deploy.pth').is_file()
    assert cv2.imread(str(home / 'data/mine/masks/a.png'), cv2.IMREAD_UNCHANGED).tolist() == [[0, 1, 255]]


def test_every_example_runs(readme, home, deployed, monkeypatch) -> None:
    monkeypatch.chdir(home)
    shutil.copytree(deployed, home / 'work_dirs/demo/deploy', dirs_exist_ok=True)
    examples = blocks(readme, 'python')
    assert len(examples) >= 3
    for example in examples:
        exec(compile(example, 'README.md', 'exec'), {})
    assert list((home / 'overlays').rglob('*.jpg')) + list((home / 'overlays').rglob('*.png'))


def test_every_config_is_listed_and_opens_with_its_command_cost_and_result(readme, repo) -> None:
    listed = {name for code in re.findall(r'`([\w{},]+\.py)`', readme) for name in expanded(code)}
    for path in (repo / 'configs').glob('*.py'):
        assert path.name in listed
        header = [line for line in path.read_text().splitlines() if line.startswith('#')]
        assert f'tools/train.py configs/{path.name}' in header[0]
        text = '\n'.join(header)
        assert re.search(r'^# Cost: ', text, re.MULTILINE) and re.search(r'^# Expect: ', text, re.MULTILINE), path
        Config.fromfile(path)


def test_every_link_and_make_target_exists(readme, repo) -> None:
    assert not re.search(r'^[A-Z]+$', readme, re.MULTILINE)  # no placeholder was left
    for target in re.findall(r'\]\((?!http)([^)#]+)', readme):
        assert (repo / target).exists(), target
    makefile = (repo / 'Makefile').read_text()
    for target in re.findall(r'make (\w+)', readme):
        assert target in {'make'} or re.search(rf'^{target}:', makefile, re.MULTILINE), target
