"""Fixtures and helpers that several test modules share."""

from __future__ import annotations

import json
import logging
import shutil
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from repvgg_seg import Variant
from repvgg_seg.cli import main
from tests.pretrain.conftest import folders as folders  # a fixture, of several folders' tests

# The networks here are tiny: more threads only wait for each other, for ages on a busy machine.
torch.set_num_threads(1)

# All shipped configs.
CONFIGS = sorted((Path(__file__).resolve().parents[1] / 'configs').glob('*.py'))

# Small enough to train in a test; groups in every second block and an identity branch in stage 3.
TINY = Variant('tiny', blocks=(1, 2, 3, 1), widths=(0.25, 0.25, 0.125, 0.125))
TINY_GROUPED = Variant('tiny-grouped', blocks=(2, 2, 3, 1), widths=(0.25, 0.25, 0.125, 0.125), groups=2)
TINY_SE = Variant('tiny-se', blocks=(1, 2, 3, 1), widths=(0.5, 0.25, 0.25, 0.125), se='pre')
TINY_PLUS = Variant(
    'tiny-plus', blocks=(1, 2, 4, 1), widths=(0.25, 0.25, 0.125, 0.125), se='post', aux_classifiers=True
)
TINY_VARIANTS = (TINY, TINY_GROUPED, TINY_SE, TINY_PLUS)


def randomise(model: nn.Module, seed: int = 0) -> nn.Module:
    """Give every batch norm random statistics and a random affine, as after training; built they are trivial."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, _BatchNorm):
                module.running_mean.uniform_(-0.5, 0.5, generator=generator)
                module.running_var.uniform_(0.5, 2, generator=generator)
                if module.affine:
                    module.weight.uniform_(-1, 1.5, generator=generator)
                    module.bias.uniform_(-0.5, 0.5, generator=generator)
    return model


def relative(result: torch.Tensor, reference: torch.Tensor) -> float:
    """Return the largest deviation over the largest magnitude of the reference."""
    return ((result - reference).abs().max() / reference.abs().max()).item()


@pytest.fixture(scope='session')
def repo() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _default_scope() -> Iterator[None]:
    """Undo what a test does to mmengine's default scope, where the next one would look for its classes."""
    yield
    if 'mmengine' in sys.modules:
        from mmengine.registry import DefaultScope

        current = DefaultScope.get_current_instance()
        if current is not None and current.scope_name != 'mmseg':
            DefaultScope.get_instance(f'mmseg-{uuid.uuid4().hex}', scope_name='mmseg')


def tool(name: str) -> Callable[[list[str]], int]:
    """Return what tools/NAME.py calls, to be called in this process: starting a new one takes seconds."""
    command = {'make_demo_data': 'demo-data'}.get(name, name.replace('_', '-'))
    return lambda argv: main([command, *argv])


def fails(capsys, name: str, *argv: object) -> str:
    """Run a tool that must fail, and return what it says on stderr: one sentence, no traceback."""
    logging.raiseExceptions = False  # mmengine's loggers still hold the stderr that an earlier test captured
    assert tool(name)([str(arg) for arg in argv]) == 2
    message = capsys.readouterr().err
    assert 'Traceback' not in message
    return message


def without_hash_of_config(folder: Path) -> Path:
    """Let the report of a deployed folder be an older one, without the hash of deploy.py, so that this may change."""
    report = json.loads((folder / 'report.json').read_text())
    del report['config']
    (folder / 'report.json').write_text(json.dumps(report))
    return folder


def latest(work_dir: Path) -> Path:
    return work_dir / Path((work_dir / 'last_checkpoint').read_text()).name


@pytest.fixture(scope='session')
def demo_data(tmp_path_factory) -> Path:
    """A tiny demo data set: 8 training and 4 validation images of 128x64 pixels."""
    from repvgg_seg.demo import write_demo_dataset

    return write_demo_dataset(tmp_path_factory.mktemp('data') / 'demo', train=8, val=4, size=(128, 64), workers=1)


TINY_CONFIG = """
_base_ = ['{repo}/configs/pspnet_repvgg_a0_demo.py']
crop_size = (64, 128)
train_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='RandomCrop', crop_size=crop_size),
    dict(type='RandomFlip', prob=0.5),
    dict(type='PackSegInputs'),
]
test_pipeline = [
    dict(type='LoadImageFromFile'),
    dict(type='LoadAnnotations'),
    dict(type='PackSegInputs'),
]
one = dict(num_workers=0, persistent_workers=False)
train_dataloader = dict(batch_size=2, dataset=dict(data_root='{data}', pipeline=train_pipeline), **one)
val_dataloader = dict(dataset=dict(data_root='{data}', pipeline=test_pipeline), **one)
test_dataloader = val_dataloader
model = dict(
    data_preprocessor=dict(size=crop_size),
    backbone=dict(out_indices=(0, 1)),  # without the stages of many channels and blocks
    decode_head=dict(channels=8, in_index=1),
    auxiliary_head=dict(channels=8, in_index=0),
)
train_cfg = dict(max_iters=4, val_interval=2)
default_hooks = dict(logger=dict(interval=1), checkpoint=dict(interval=2))
randomness = dict(seed=0, deterministic=True)
"""


@pytest.fixture(scope='session')
def tiny_config(repo, demo_data, tmp_path_factory) -> Path:
    """The demo config on the tiny data set, with a narrow head, for four iterations."""
    path = tmp_path_factory.mktemp('config') / 'tiny.py'
    path.write_text(TINY_CONFIG.format(repo=repo, data=demo_data))
    return path


@pytest.fixture(scope='session')
def trained(tiny_config, tmp_path_factory) -> Path:
    """The work directory of a finished training of `tiny_config`."""
    work_dir = tmp_path_factory.mktemp('work_dir')
    assert tool('train')([str(tiny_config), '--work-dir', str(work_dir)]) == 0
    return work_dir


@pytest.fixture(scope='session')
def deployed(tiny_config, trained, tmp_path_factory) -> Path:
    """What convert_deploy wrote for `trained`."""
    out_dir = tmp_path_factory.mktemp('converted') / 'deploy'
    assert tool('convert_deploy')([str(tiny_config), str(trained), str(out_dir)]) == 0
    return out_dir


@pytest.fixture(scope='session')
def local_files(tmp_path_factory) -> dict[str, Path]:
    """A tiny graph, of which the runtime knows no more than of any, in every format: suffix -> file."""
    from tests.local_graph import export

    return export(tmp_path_factory.mktemp('exported'))


@pytest.fixture(scope='session')
def many_classes(tmp_path_factory) -> Path:
    """A tiny graph of 300 classes, for any number of images."""
    from tests.local_graph import export_many_classes

    return export_many_classes(tmp_path_factory.mktemp('exported'))


@pytest.fixture(scope='module')
def browser(tmp_path_factory):
    """Chromium without a window, if it is installed with what drives it."""
    webdriver = pytest.importorskip('selenium.webdriver', reason='selenium is not installed')
    chromium = next(filter(None, map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome'))), None)
    driver = shutil.which('chromedriver')
    if not (chromium and driver):
        pytest.skip('Chromium with its chromedriver is not installed')
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    profile = tmp_path_factory.mktemp('chromium')
    for argument in (
        'headless',
        'no-sandbox',
        'disable-gpu',
        'disable-background-networking',
        f'user-data-dir={profile}',
    ):
        options.add_argument(f'--{argument}')
    options.set_capability('goog:loggingPrefs', {'browser': 'ALL'})
    browser = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield browser
    browser.quit()


def emulate(browser, width: int, scheme: str) -> None:
    """Let the browser have a window of this width, of a user who likes `scheme`: light or dark."""
    screen = {'width': width, 'height': 900, 'deviceScaleFactor': 1, 'mobile': False}
    browser.execute_cdp_cmd('Emulation.setDeviceMetricsOverride', screen)
    feature = {'name': 'prefers-color-scheme', 'value': scheme}
    browser.execute_cdp_cmd('Emulation.setEmulatedMedia', {'features': [feature]})
