"""Runs the README: each command and each example, in order, as a newcomer would, on small data."""

import re
import shlex
import shutil

import cv2
import pytest
import torch
from mmengine.config import Config

from repvgg_seg import RepVGGClassifier
from tests.conftest import randomise, tool


def blocks(readme: str, language: str) -> list[str]:
    return re.findall(rf'^```{language}\n(.*?)^```', readme, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope='module')
def readme(repo) -> str:
    return (repo / 'README.md').read_text()


@pytest.fixture(scope='module')
def home(tmp_path_factory, repo, trained, demo_data):
    """A directory in which the README's relative paths exist."""
    home = tmp_path_factory.mktemp('home')
    shutil.copytree(trained, home / 'work_dirs/demo')
    cv2.imwrite(str(home / 'street.png'), cv2.imread(str(next(demo_data.rglob('*_leftImg8bit.png')))))
    torch.save(randomise(RepVGGClassifier('RepVGG-A0')).state_dict(), home / 'RepVGG-A0-train.pth')
    (home / 'configs').symlink_to(repo / 'configs')
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
            argv += ['--train', '2', '--val', '1', '--size', '64x32', '--workers', '1']
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


def test_every_example_runs(readme, home, deployed, monkeypatch) -> None:
    monkeypatch.chdir(home)
    shutil.copytree(deployed, home / 'work_dirs/demo/deploy', dirs_exist_ok=True)
    examples = blocks(readme, 'python')
    assert len(examples) >= 3
    for example in examples:
        exec(compile(example, 'README.md', 'exec'), {})
    assert list((home / 'overlays').rglob('*.jpg')) + list((home / 'overlays').rglob('*.png'))


def test_every_config_is_listed_and_opens_with_its_command_cost_and_result(readme, repo) -> None:
    for path in (repo / 'configs').glob('*.py'):
        assert f'`{path.name}`' in readme
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
