"""The command `repvgg-seg`: what it lists, what it suggests, and that one vocabulary holds in all commands."""

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from repvgg_seg import cli
from repvgg_seg.cli import COMMANDS, build_parser, main


def test_the_overview_names_every_command_and_loads_nothing_heavy() -> None:
    script = 'import sys; from repvgg_seg.cli import main; main(["--help"]); print(*sys.modules, file=sys.stderr)'
    done = subprocess.run([sys.executable, '-c', script], capture_output=True, text=True, check=True)
    assert all(
        re.search(rf'^  {name} +{re.escape(command.summary)}$', done.stdout, re.M) for name, command in COMMANDS.items()
    )
    assert not {'torch', 'numpy', 'mmengine', 'cv2'} & set(done.stderr.split())


@pytest.mark.parametrize(
    ('argv', 'message'),
    [
        ([], 'usage: repvgg-seg COMMAND'),
        (['trian'], "there is no command 'trian': did you mean train?"),
        (['convert_deploy'], 'did you mean convert-deploy?'),
        (['xyz'], "no command 'xyz': `repvgg-seg --help` lists them all"),
        (['configs', 'pspnet_repvg_b2_cityscapes'], 'did you mean pspnet_repvgg_b2_cityscapes?'),
        (['configs', '--out', 'x.py'], 'name the config to write'),
        (['configs', 'pspnet_repvgg_a0_demo', '--out', 'x.txt'], 'x.txt is not a name for a config'),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_command_is_one_sentence(argv, message, capsys) -> None:
    assert main(argv) == 2
    assert message in capsys.readouterr().err


def test_tools_are_the_commands(repo) -> None:
    tools = {path.stem for path in (repo / 'tools').glob('*.py')}
    assert {name.removeprefix('make_').replace('_', '-') for name in tools} <= {
        name.removeprefix('make-') for name in COMMANDS
    }
    done = subprocess.run(
        [sys.executable, str(repo / 'tools/predict.py'), '--help'], capture_output=True, text=True, cwd='/'
    )
    assert done.returncode == 0 and 'usage: repvgg-seg predict' in done.stdout


def test_an_installation_without_torch_names_what_training_needs(monkeypatch, capsys) -> None:
    monkeypatch.setattr(cli, 'is_runtime_only', lambda: True)
    assert main(['train', 'x.py']) == 2
    assert 'train needs torch and OpenMMLab, and this installation only runs exported files' in capsys.readouterr().err
    assert main(['predict', 'gone.onnx', 'gone.png', '--out', 'x']) == 2
    assert 'gone.png does not exist' in capsys.readouterr().err


def test_a_config_written_out_stands_alone(repo, tmp_path, monkeypatch, capsys) -> None:
    from mmengine.config import Config

    monkeypatch.chdir(tmp_path)
    argv = ['configs', 'pspnet_repvgg_a0_demo', '--out', 'mine.py', '--cfg-options', 'data_root=there']
    assert main(argv) == 0
    mine, shipped = Config.fromfile('mine.py'), Config.fromfile(repo / 'configs/pspnet_repvgg_a0_demo.py')
    assert mine.model == shipped.model and mine.custom_imports == shipped.custom_imports
    assert mine.train_dataloader.dataset.data_root == 'there'
    assert main(argv) == 2 and 'mine.py is there already' in capsys.readouterr().err


def test_the_package_lists_all_its_folders(repo) -> None:
    text = (repo / 'setup.cfg').read_text()
    for top, package in (('repvgg_seg', 'repvgg_seg'), ('configs', 'repvgg_seg.configs')):
        for folder in {path.parent for path in (repo / top).rglob('*.py')}:
            name = '.'.join([package, *folder.relative_to(repo / top).parts])
            assert f'    {name}\n' in text, f'setup.cfg does not list {name}'


def options_of(name: str) -> dict[str, argparse.Action]:
    return {flag: action for action in build_parser(name)._actions for flag in action.option_strings or [action.dest]}


@pytest.mark.parametrize('name', COMMANDS)
def test_one_thing_has_one_name_in_all_commands(name) -> None:
    options = options_of(name)
    assert not {'--output-dir', '--out-dir', '--device-ids'} & set(options)
    if 'config' in options and name != 'configs':
        assert '--cfg-options' in options
    for flag, action in options.items():
        assert action.help, f'{name} does not say what {flag} is'
        if flag in ('--size', '--image-size'):
            assert action.type is cli.image_size and action.metavar == 'HEIGHTxWIDTH'
        if flag.startswith('--') and action.nargs not in (0, '?', '+', None):
            raise AssertionError(f'{name} {flag} takes its values another way than by spaces')
        if flag == '--out':
            assert action.metavar in ('DIR', 'FILE', 'FILE.py')
        if flag in ('--images', '--image', '--json', '--csv'):
            assert action.metavar in ('FILE', 'PATH')
        if action.type in (int, float) and action.help != argparse.SUPPRESS:
            assert action.metavar, f'{name} {flag} does not say what its number counts'
        if flag.startswith('--') and action.default not in (None, False, argparse.SUPPRESS, (), {}):
            assert '(default' in action.help, f'{name} {flag} has a default that its help does not name'


def test_paths_of_modules_are_those_of_files() -> None:
    for command in COMMANDS.values():
        assert Path(cli.__file__).parent.joinpath(*command.module.split('.')).with_suffix('.py').is_file()


def test_what_a_terminal_cannot_show_is_no_error(tmp_path) -> None:
    command = [sys.executable, '-m', 'repvgg_seg', 'convert-masks', 'Straße…/classes.json', 'x', 'y']
    environment = {**os.environ, 'PYTHONIOENCODING': 'ascii'}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and r'error: Stra\xdfe\u2026/classes.json does not exist' in done.stderr
