"""With repvgg_seg.openmmlab imported, mmengine reads, writes and loads checkpoints through our store."""

from __future__ import annotations

import copy
import logging
import os
import re
import signal
from collections import Counter, OrderedDict
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.fileio import get_file_backend
from mmengine.logging import HistoryBuffer, MessageHub
from mmengine.model import BaseModel
from mmengine.runner import CheckpointLoader, Runner, load_checkpoint, save_checkpoint
from mmseg.apis import MMSegInferencer, init_model
from torch import nn

import repvgg_seg.openmmlab
from repvgg_seg.models.classifier import RepVGGClassifier
from repvgg_seg.models.trunk import RepVGG
from repvgg_seg.weights import pretrained
from repvgg_seg.weights.checkpoint_io import WeightsError, read_checkpoint, write_checkpoint
from repvgg_seg.weights.key_maps import from_official
from tests.conftest import TINY, randomise, tool


def config(num_classes: int = 3, arch: str = 'RepVGG-A0') -> Config:
    """A segmentor on the first stage only, so that it is small."""
    head = dict(type='FCNHead', in_channels=48, channels=8, num_convs=1, num_classes=num_classes, in_index=0)
    model = dict(
        type='EncoderDecoder',
        backbone=dict(type='RepVGG', arch=arch, out_indices=(0,)),
        decode_head=dict(head, norm_cfg=dict(type='BN')),
        auxiliary_head=dict(head, norm_cfg=dict(type='BN')),
        test_cfg=dict(mode='whole'),
    )
    return Config(dict(model=model, default_scope='mmseg'))


def build(num_classes: int = 3, train: bool = False) -> nn.Module:
    model = randomise(init_model(config(num_classes), device='cpu'))
    model.train_cfg = {} if train else None  # init_model takes it away
    return model


@pytest.fixture
def saved(tmp_path) -> Path:
    """A segmentor's checkpoint as mmengine writes it."""
    meta = {'dataset_meta': {'classes': ('a', 'b', 'c'), 'palette': [[0, 0, 0]] * 3}}
    save_checkpoint({'meta': meta, 'state_dict': build().state_dict()}, str(tmp_path / 'seg.pth'))
    return tmp_path / 'seg.pth'


# --- init_model, which warned and ran on random weights


def test_init_model_loads_what_fits(saved):
    model = init_model(config(), str(saved), device='cpu')
    assert model.dataset_meta['classes'] == ('a', 'b', 'c')
    state = read_checkpoint(saved)['state_dict']
    assert all(torch.equal(value, state[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (
            lambda s: {f'model.{key}': value for key, value in s.items()},
            r'no segmentation head but model\.backbone',
        ),
        (
            lambda s: {k: v for k, v in s.items() if not k.startswith('decode_head')},
            r'lack decode_head\.conv_seg',
        ),
        (lambda s: {k: v for k, v in s.items() if 'stage1' not in k}, r'they lack backbone\.stage1'),
        (
            lambda s: {k.removeprefix('backbone.'): v for k, v in s.items() if k.startswith('b')},
            'no segmentation head',
        ),
        (
            lambda s: s | {'decode_head.conv_seg.bias': torch.ones(9)},
            r'another shape decode_head\.conv_seg\.bias \(9,\)',
        ),
        (
            lambda s: s | {'decode_head.conv_seg.bias': torch.full((3,), torch.nan)},
            'is not finite everywhere',
        ),
        (
            lambda s: s | {'decode_head.conv_seg.bias': torch.full((3,), 1e300, dtype=torch.float64)},
            'is not finite everywhere',
        ),
        (lambda s: s | {'decode_head.conv_seg.bias': 'x'}, r'a str for the weight .decode_head\.conv_seg\.bias'),
        (lambda s: s | {1: torch.ones(1)}, 'a Tensor for the weight 1'),
        (lambda s: [1, 2], 'a list for its state_dict'),
    ],
)
def test_init_model_refuses_what_does_not(saved, wrong, message):
    checkpoint = read_checkpoint(saved)
    write_checkpoint(checkpoint | {'state_dict': wrong(checkpoint['state_dict'])}, saved)
    with pytest.raises(WeightsError, match=message):
        init_model(config(), str(saved), device='cpu')


def test_init_model_refuses_another_variant(saved):
    with pytest.raises(WeightsError, match=r'they are RepVGG-\w+, the model is RepVGG-B0|nearest to RepVGG'):
        init_model(config(arch='RepVGG-B0'), str(saved), device='cpu')


def test_fine_tuning_may_change_classes_but_not_the_network(saved):
    model = build(num_classes=7, train=True)
    before = model.decode_head.conv_seg.weight.clone()
    load_checkpoint(model, str(saved))
    state = read_checkpoint(saved)['state_dict']
    assert torch.equal(model.backbone.stage0.rbr_1x1.bn.bias, state['backbone.stage0.rbr_1x1.bn.bias'])
    assert torch.equal(model.decode_head.conv_seg.weight, before)
    with pytest.raises(WeightsError, match='no segmentation head'):
        write_checkpoint({'state_dict': {'stage0.rbr_1x1.bn.bias': torch.ones(48)}}, saved)
        load_checkpoint(model, str(saved))


@pytest.mark.parametrize(
    ('wrong', 'message'),
    [
        (
            lambda s: s | {'decode_head.conv_seg.weight': s['decode_head.conv_seg.weight'] * torch.nan},
            r'decode_head\.conv_seg\.weight is not finite',
        ),
        (
            lambda s: {k: v for k, v in s.items() if not k.startswith('auxiliary_head.convs')},
            r'they lack auxiliary_head\.convs',
        ),
        (lambda s: {k: v for k, v in s.items() if '.conv_seg.' not in k}, r'they lack decode_head\.conv_seg'),
        (
            lambda s: s | {'decode_head.conv_seg.weight': torch.ones(5, 9, 1, 1)},
            r'another shape decode_head\.conv_seg\.weight \(5, 9, 1, 1\)',
        ),
    ],
)
def test_fine_tuning_does_not_take_damaged_heads(saved, wrong, message):
    write_checkpoint({'state_dict': wrong(read_checkpoint(saved)['state_dict'])}, saved)
    with pytest.raises(WeightsError, match=message):
        load_checkpoint(build(train=True), str(saved))


def test_fine_tuning_may_add_an_auxiliary_head(saved):
    state = {k: v for k, v in read_checkpoint(saved)['state_dict'].items() if not k.startswith('auxiliary_head.')}
    write_checkpoint({'state_dict': state}, saved)
    model = build(train=True)
    load_checkpoint(model, str(saved))
    assert torch.equal(model.decode_head.conv_seg.weight, state['decode_head.conv_seg.weight'])


@pytest.mark.parametrize('dialect', ['official', 'openmmlab', 'timm'])
def test_a_trunk_is_loaded_whole_in_any_dialect_or_not_at_all(tmp_path, dialect):
    original = randomise(RepVGGClassifier(TINY, 5)).state_dict()
    path = tmp_path / 'x.pth'
    write_checkpoint({'state_dict': from_official(original, dialect)}, path)
    trunk = RepVGG(TINY)
    load_checkpoint(trunk, str(path))
    assert all(torch.equal(value, original[key]) for key, value in trunk.state_dict().items())
    half = {key: value for key, value in original.items() if 'stage3' not in key}
    write_checkpoint({'state_dict': from_official(half, dialect)}, path)
    with pytest.raises(WeightsError, match=r'they lack stage3\.'):
        load_checkpoint(trunk, str(path))


def test_init_model_takes_tensors_alone(saved):
    state = read_checkpoint(saved)['state_dict']
    write_checkpoint(state, saved.with_suffix('.safetensors'))
    model = init_model(config(), str(saved.with_suffix('.safetensors')), device='cpu')
    assert torch.equal(model.decode_head.conv_seg.weight, state['decode_head.conv_seg.weight'])


def test_other_networks_load_as_before(tmp_path):
    write_checkpoint({'state_dict': {'weight': torch.ones(1, 1), 'other': torch.ones(1)}}, tmp_path / 'x.pth')
    layer = nn.Linear(1, 1)
    load_checkpoint(layer, str(tmp_path / 'x.pth'))
    assert layer.weight.item() == 1


# --- nothing runs


@pytest.mark.parametrize('kind', ['zip', 'legacy', 'getattr', 'eval'])
@pytest.mark.parametrize('how', ['loader', 'load_checkpoint', 'init_model', 'remote', 'http'])
def test_malicious_files_do_not_run(write_malicious, monkeypatch, kind, how):
    path, marker = write_malicious(kind)
    monkeypatch.setattr(pretrained, '_resolve_url', lambda url: path)
    call = {
        'loader': lambda: CheckpointLoader.load_checkpoint(str(path)),
        'load_checkpoint': lambda: load_checkpoint(RepVGG(TINY), str(path)),
        'init_model': lambda: init_model(config(), str(path), device='cpu'),
        'remote': lambda: CheckpointLoader.load_checkpoint(f's3://{path}'),
        'http': lambda: CheckpointLoader.load_checkpoint('https://example.org/x.pth'),
    }[how]
    if how == 'remote':  # a remote store hands over an open file
        monkeypatch.setattr(
            'mmengine.runner.checkpoint.get_file_backend',
            lambda *_, **__: get_file_backend(str(path)),
            raising=True,
        )
        monkeypatch.setattr(type(get_file_backend(str(path))), 'get', lambda self, name: path.read_bytes())
    with pytest.raises(WeightsError, match='could run code'):
        call()
    assert not marker.exists()


def test_opting_out_is_per_call_and_logged(write_malicious, caplog):
    from mmengine.runner import checkpoint

    path, marker = write_malicious('eval')
    with caplog.at_level(logging.WARNING):
        checkpoint._safe_torch_load(str(path), weights_only=False)
    assert marker.exists() and 'is loaded with unsafe=True' in caplog.text


def test_configs_inside_checkpoints_are_dropped(tmp_path):
    """mmengine would run them: `config` when it resumes, `cfg` where an inferencer gets weights alone."""
    source = 'import os; os.abort()'
    hub = {'runtime_info': {'cfg': source, 'iter': 3}}
    write_checkpoint({'meta': {'config': source, 'cfg': source, 'epoch': 1}, 'message_hub': hub}, tmp_path / 'x.pth')
    checkpoint = CheckpointLoader.load_checkpoint(str(tmp_path / 'x.pth'))
    assert checkpoint == {'meta': {'epoch': 1}, 'message_hub': {'runtime_info': {'iter': 3}}}


class Rebuilt:
    """Is written as a call of an allowed constructor with attributes of our choice."""

    def __init__(self, *reduced: object) -> None:
        self.reduced = reduced

    def __reduce__(self) -> tuple:
        return self.reduced


def record(**fields: object) -> Rebuilt:
    """A numpy record: it has names like a dictionary, and is none."""
    buffer = HistoryBuffer()
    buffer.dtype = [(key, 'U200' if isinstance(value, str) else 'i8') for key, value in fields.items()]
    values = np.array([tuple(fields.values())], dtype=buffer.dtype)
    return Rebuilt(np.float64(0).__reduce__()[0], (buffer, values.tobytes()))


@pytest.mark.parametrize(
    ('kind', 'message'),
    [
        ('get', 'replaces methods of its dictionaries'),
        ('pop', 'replaces methods of its dictionaries'),
        ('counter', 'replaces methods of its dictionaries'),
        ('record', r'numpy\.dtype, which could run code'),
        ('list', 'has a list for its (meta|message_hub)|is not a checkpoint of a training'),
    ],
)
@pytest.mark.parametrize('how', ['resume', 'inferencer', 'tool'])
def test_configs_cannot_hide_from_being_dropped(tmp_path, kind, message, how, request, capsys):
    marker, path = tmp_path / 'marker', tmp_path / 'x.pth'
    source = f'import os; os.system("touch {marker}")'
    reconstruct = np.zeros(1).__reduce__()[0]  # an allowed function that takes anything and does nothing
    meta = {'epoch': 0, 'iter': 0, 'config': source, 'cfg': source}
    hub = {'log_scalars': {}, 'runtime_info': {'cfg': source}, 'resumed_keys': {}}
    if kind == 'pop':
        meta, hub['runtime_info'] = OrderedDict(meta), OrderedDict(hub['runtime_info'])
        meta.pop = hub['runtime_info'].pop = reconstruct
    elif kind == 'counter':
        meta, hub['runtime_info'] = (Rebuilt(Counter, (d,), {'pop': reconstruct}) for d in (meta, hub['runtime_info']))
    elif kind == 'record':
        meta, hub['runtime_info'] = record(**meta), record(cfg=source)
    elif kind == 'list':
        meta, hub = [meta], [hub]
    checkpoint = OrderedDict(meta=meta, state_dict=Toy().state_dict(), message_hub=hub)
    if kind == 'get':
        checkpoint.get = set
    torch.save(checkpoint, path)
    if how == 'tool':
        tiny_config = request.getfixturevalue('tiny_config')
        argv = [str(tiny_config), '--work-dir', str(tmp_path / 'w'), '--resume', str(path)]
        assert tool('train')(argv) == 2
        assert re.search(message, capsys.readouterr().err)
    else:
        with pytest.raises(WeightsError, match=message):
            if how == 'resume':
                toy = runner(tmp_path / 'w', 2)
                toy._load_from, toy._resume = str(path), True
                toy.train()
            else:
                MMSegInferencer(model=None, weights=str(path), device='cpu')
    assert not marker.exists()


def test_names_load_through_mmengine(tmp_path, monkeypatch):
    original = randomise(RepVGGClassifier(TINY, 5))
    path = tmp_path / 'tiny.pth'
    write_checkpoint(from_official(original.state_dict(), 'openmmlab'), path)
    monkeypatch.setattr(pretrained, '_resolve_name', {'tiny': path}.get)
    trunk = RepVGG(TINY)
    load_checkpoint(trunk, 'repvgg://tiny')
    assert all(torch.equal(value, original.state_dict()[key]) for key, value in trunk.state_dict().items())


# --- training checkpoints


class Toy(BaseModel):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 1)

    def forward(self, x: list[torch.Tensor], mode: str = 'tensor') -> dict[str, torch.Tensor]:
        return {'loss': self.layer(torch.stack(list(x))).square().mean()}


def runner(work_dir: Path, iterations: int, resume: bool = False) -> Runner:
    return Runner(
        Toy(),
        work_dir=str(work_dir),
        train_dataloader=dict(
            dataset=[dict(x=torch.ones(2))] * 4,
            batch_size=2,
            sampler=dict(type='InfiniteSampler', shuffle=False),
            num_workers=0,
        ),
        train_cfg=dict(by_epoch=False, max_iters=iterations),
        optim_wrapper=dict(optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        param_scheduler=[dict(type='PolyLR', by_epoch=False, end=9)],
        default_hooks=dict(checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=2, max_keep_ckpts=2)),
        custom_hooks=[dict(type='EMAHook')],
        resume=resume,
        experiment_name=f'toy-{work_dir.name}-{iterations}',
        default_scope='mmengine',
    )


def test_what_mmengine_wrote_resumes_as_if_never_interrupted(tmp_path):
    torch.manual_seed(1)
    straight = runner(tmp_path / 'straight', 4)
    initial = copy.deepcopy(straight.model.state_dict())
    straight.train()
    first = runner(tmp_path / 'resumed', 2)
    first.model.load_state_dict(initial)
    first.train()
    second = runner(tmp_path / 'resumed', 4, resume=True)
    second.train()
    assert second.iter == 4
    for key, value in straight.model.state_dict().items():
        assert torch.equal(second.model.state_dict()[key], value)
    assert isinstance(second.message_hub.get_scalar('train/loss'), HistoryBuffer)
    assert len(second.message_hub.get_scalar('train/loss').data[0]) == 4

    # A reader without mmengine gets at the weights all the same.
    checkpoint = read_checkpoint(tmp_path / 'resumed' / 'iter_4.pth')
    assert checkpoint['ema_state_dict'].keys() == {'steps', 'module.layer.weight', 'module.layer.bias'}


def die_while_saving(path: str) -> None:
    os.fsync = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
    save_checkpoint({'state_dict': {'a': torch.zeros(3)}}, path)


def test_a_run_killed_while_it_saves_keeps_its_last_checkpoint(tmp_path):
    path = tmp_path / 'last.pth'
    save_checkpoint({'state_dict': {'a': torch.ones(3)}}, str(path))
    child = get_context('fork').Process(target=die_while_saving, args=(str(path),))
    child.start()
    child.join()
    assert child.exitcode == -signal.SIGKILL
    assert torch.equal(read_checkpoint(path)['state_dict']['a'], torch.ones(3))


def test_text_goes_through_the_same_backend(tmp_path):
    get_file_backend(str(tmp_path)).put_text('ä', str(tmp_path / 'new' / 'x.txt'))
    assert (tmp_path / 'new' / 'x.txt').read_text(encoding='utf-8') == 'ä'


def test_checkpoints_are_rerouted_by_the_import_of_openmmlab():
    assert type(get_file_backend('/tmp')) is repvgg_seg.openmmlab.local_files.LocalFiles
    assert MessageHub  # mmengine is loaded, so its own HistoryBuffer is rebuilt


def test_a_file_does_not_replace_the_statistics_of_all_buffers(tmp_path):
    buffer = HistoryBuffer([1.0, 3.0], [1, 1])
    torch.save({'x': Rebuilt(HistoryBuffer, (), {'statistics_methods': {'mean': set}})}, tmp_path / 'x.pth')
    read_checkpoint(tmp_path / 'x.pth')
    assert buffer.statistics('mean') == 2
