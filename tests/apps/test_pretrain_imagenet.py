"""ImageNet pretraining from end to end on tiny data, the authors' recipes, and what a user can do wrong."""

import json
import logging
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config

from repvgg_seg import VARIANTS, RepVGG, RepVGGClassifier, load_weights
from repvgg_seg.apps.train import prepare
from repvgg_seg.benchmarks.report import Report
from repvgg_seg.models import variants
from repvgg_seg.models.weight_decay import undecayed
from repvgg_seg.openmmlab import RepVGGOptimWrapperConstructor, imagenet, loops
from repvgg_seg.weights.key_maps import from_official
from repvgg_seg.workflows import pretraining
from tests.conftest import TINY, TINY_PLUS, tool
from tests.pretrain.conftest import WNIDS, write_folders, write_image

# The command line names networks: this one in a process of its own, with the tiny ones among them.
DRIVER = f"""
import os, runpy, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
import torch
torch.set_num_threads(1)
from repvgg_seg.models import variants
from tests.conftest import TINY
variants.VARIANTS = {{**variants.VARIANTS, 'tiny': TINY}}
from repvgg_seg.openmmlab.loops import ResumableEpochLoop
step = ResumableEpochLoop.run_iter
def run_iter(self, idx, batch):
    step(self, idx, batch)
    if self.iter == int(os.environ.get('KILL_AT', -1)):
        os.kill(os.getpid(), signal.SIGKILL)
ResumableEpochLoop.run_iter = run_iter
runpy.run_path({str(Path(__file__).parents[2] / 'tools/pretrain_imagenet.py')!r}, run_name='__main__')
"""


@pytest.fixture(autouse=True)
def _tiny_variants(monkeypatch) -> None:
    monkeypatch.setattr(variants, 'VARIANTS', {**VARIANTS, 'tiny': TINY, 'tiny-plus': TINY_PLUS})


def arguments(data: Path, work_dir: Path, *more: str, arch: str = 'tiny', **options: object) -> list[str]:
    """Return a short training: 24 images, batches of 8, two epochs of three iterations."""
    values = {
        'model.num_classes': 3,
        'train_dataloader.batch_size': 8,
        'train_dataloader.num_workers': 0,
        'val_dataloader.num_workers': 0,
        'train_dataloader.dataset.resolution': 32,
        'val_dataloader.dataset.resolution': 32,
        'train_cfg.max_epochs': 2,
        'default_hooks.checkpoint.interval': 2,
        'default_hooks.logger.interval': 1,
        'log_processor.window_size': 1,
        **{key.replace('__', '.'): value for key, value in options.items()},
    }
    argv = ['--data-root', data, '--work-dir', work_dir, '--arch', arch, *more]
    return [*map(str, argv), '--cfg-options', *(f'{key}={value}' for key, value in values.items())]


def run(*argv: object) -> int:
    return tool('pretrain_imagenet')([str(arg) for arg in argv])


def fails(capsys, *argv: object) -> str:
    """Run what must fail, and return what it says on stderr: one sentence, no traceback."""
    logging.raiseExceptions = False  # mmengine's loggers still hold the stderr that an earlier test captured
    assert run(*argv) == 2
    message = capsys.readouterr().err
    assert 'Traceback' not in message
    return message


def weights(work_dir: Path, kind: str = '', arch: str = 'tiny') -> dict:
    return torch.load(work_dir / f'{arch}-pretrain{kind}.pth', weights_only=True)


def scalars(work_dir: Path, name: str) -> list[float]:
    lines = next(work_dir.glob('*/vis_data/scalars.json')).read_text().splitlines()
    return [json.loads(line)[name] for line in lines if name in line]


RECIPE = ('--recipe', 'paper-200e', '--custom-l2')  # whatever can be random: crop, flip, AutoAugment, mixup


@pytest.fixture(scope='module')
def pretrained(folders, tmp_path_factory) -> Path:
    """The work directory of a finished training with RECIPE."""
    work_dir = tmp_path_factory.mktemp('pretrained')
    variants.VARIANTS, known = {**VARIANTS, 'tiny': TINY}, variants.VARIANTS
    try:
        assert run(*arguments(folders, work_dir, *RECIPE)) == 0
    finally:
        variants.VARIANTS = known
    return work_dir


# ---- the authors' recipes


RECIPES = {
    'paper-120e': {
        'max_epochs': 120, 'weight_decay': 1e-4, 'nesterov': False, 'warmup': None, 'label_smoothing': 0.0,
        'mixup': 0.0, 'augmentation': 'none', 'train': 224, 'test': 224,
    },
    'paper-200e': {
        'max_epochs': 200, 'weight_decay': 1e-4, 'nesterov': False, 'warmup': None, 'label_smoothing': 0.1,
        'mixup': 0.2, 'augmentation': 'autoaugment', 'train': 224, 'test': 224,
    },
    'plus-300e': {
        'max_epochs': 300, 'weight_decay': 4e-5, 'nesterov': True, 'warmup': 5, 'label_smoothing': 0.1,
        'mixup': 0.2, 'augmentation': 'raug15', 'train': 256, 'test': 320,
    },
}  # fmt: skip


@pytest.mark.parametrize('recipe', pretraining.RECIPES)
def test_each_number_of_a_recipe_is_the_authors(recipe: str) -> None:
    cfg = pretraining.config_of(recipe)
    optimizer, train, test = cfg.optim_wrapper.optimizer, cfg.train_dataloader.dataset, cfg.val_dataloader.dataset
    objective = imagenet.MODELS.build(cfg.model | {'arch': TINY}).objective
    assert {
        'max_epochs': cfg.train_cfg.max_epochs,
        'weight_decay': optimizer.weight_decay,
        'nesterov': optimizer.get('nesterov', False),
        'warmup': cfg.param_scheduler[0].end if len(cfg.param_scheduler) > 1 else None,
        'label_smoothing': objective.label_smoothing,
        'mixup': getattr(objective.mixup, 'alpha', 0.0),
        'augmentation': train.get('augmentation', 'none'),
        'train': train.resolution,
        'test': test.resolution,
    } == RECIPES[recipe]
    assert (optimizer.type, optimizer.lr, optimizer.momentum) == ('SGD', 0.1, 0.9)
    assert cfg.auto_scale_lr == {'enable': True, 'base_batch_size': 256} and objective.aux_weight == 0.1
    assert cfg.param_scheduler[-1].type == 'CosineAnnealingLR' and cfg.param_scheduler[-1].eta_min == 0


@pytest.mark.parametrize('arch', ['RepVGG-A0', 'RepVGG-D2se', 'RepVGGplus-L2pse'])
@pytest.mark.parametrize('custom_l2', [0.0, 1e-4])
def test_every_parameter_of_a_network_has_its_decay(arch: str, custom_l2: float) -> None:
    with torch.device('meta'):
        model = imagenet.PretrainingModel(arch, custom_l2=custom_l2)
    free = undecayed(model, custom_l2=bool(custom_l2))
    decayed = {name.removeprefix('model.') for name, _ in model.named_parameters() if name not in free}
    blocks = [f'stage{s}.{b}' for s, n in enumerate(VARIANTS[arch].blocks, 1) for b in range(n)]
    expected = {'linear.weight'}
    for block in ['stage0', *blocks]:
        if not custom_l2:
            expected |= {f'{block}.rbr_dense.conv.weight', f'{block}.rbr_1x1.conv.weight'}
        if not block.endswith('.0') and block != 'stage0':
            expected.add(f'{block}.rbr_identity.weight')
        se = {'pre': 'se', 'post': 'post_se'}.get(VARIANTS[arch].se)
        expected |= {f'{block}.{se}.{part}.weight' for part in ('down', 'up') if se}
    if VARIANTS[arch].aux_classifiers:
        for aux in ('stage1_aux', 'stage2_aux', 'stage3_first_aux'):
            expected |= {f'{aux}.0.conv.weight', f'{aux}.3.weight'}
    assert decayed == expected
    wrapper = RepVGGOptimWrapperConstructor({'optimizer': {'type': 'SGD', 'lr': 0.1, 'weight_decay': 4e-5}})(model)
    decay = {id(p): group['weight_decay'] for group in wrapper.optimizer.param_groups for p in group['params']}
    assert {name.removeprefix('model.'): decay[id(p)] for name, p in model.named_parameters()} == {
        name.removeprefix('model.'): 4e-5 if name.removeprefix('model.') in expected else 0.0
        for name, _ in model.named_parameters()
    }


def test_every_config_opens_with_its_command_cost_and_result_and_is_listed(repo) -> None:
    for path in (repo / 'configs/imagenet').glob('*.py'):
        recipe = path.stem.replace('_', '-')
        header = [line for line in path.read_text().splitlines() if line.startswith('#')]
        assert recipe in pretraining.RECIPES and f'pretrain_imagenet.py --recipe {recipe}' in header[0]
        assert header[1].startswith('# Cost: ') and header[2].startswith('# Expect: ')
        assert f'`{recipe}`' in (repo / 'docs/pretrain.md').read_text()


def test_the_warm_up_rises_linearly_into_the_cosine(folders, tmp_path) -> None:
    argv = arguments(folders, tmp_path, '--recipe', 'plus-300e', arch='tiny-plus', train_cfg__max_epochs=7)
    assert run(*argv, 'optim_wrapper.optimizer.lr=3.2') == 0  # scaled by 8 / 256
    rates = scalars(tmp_path, 'lr')
    cosine = [0.05 * (1 + torch.cos(torch.tensor(torch.pi * i / 21)).item()) for i in range(21)]
    warm_up = [min(1.0, i / 14) for i in range(21)]  # five epochs of three iterations, both ends among them
    assert rates == pytest.approx([a * b for a, b in zip(cosine, warm_up, strict=True)], abs=1e-5)


# ---- what comes out


def test_the_weights_are_official_complete_and_say_what_they_are(pretrained, repo) -> None:
    for kind, averaged in (('', False), ('-ema', True)):
        file = weights(pretrained, kind)
        meta = file['meta']
        assert (meta['arch'], meta['recipe'], meta['custom_l2'], meta['averaged']) == (
            'tiny',
            'paper-200e',
            True,
            averaged,
        )
        assert meta['classes'] == list(WNIDS) and meta['resolution'] == 32 and 0 <= meta['top1'] <= 100 == meta['top5']
        assert meta['versions']['torch'] == torch.__version__.partition('+')[0]
        commit = subprocess.run(['git', 'rev-parse', 'HEAD'], cwd=repo, capture_output=True, text=True).stdout.strip()
        assert meta['commit'] == (commit or None)
        model = RepVGGClassifier(TINY, 3)
        model.load_state_dict(file['state_dict'])
    last, averaged = weights(pretrained)['state_dict'], weights(pretrained, '-ema')['state_dict']
    assert any(not torch.equal(last[key], averaged[key]) for key in last)


def test_a_plus_network_comes_out_in_the_names_of_its_authors(folders, tmp_path) -> None:
    assert run(*arguments(folders, tmp_path, '--recipe', 'plus-300e', arch='tiny-plus', train_cfg__max_epochs=1)) == 0
    tensors = weights(tmp_path, arch='tiny-plus')['state_dict']
    assert 'stage3_first.blocks.0.rbr_dense.conv.weight' in tensors and 'stage2_aux.3.weight' in tensors
    load_weights(RepVGGClassifier(TINY_PLUS, 3), tmp_path / 'tiny-plus-pretrain.pth')
    log = next(tmp_path.rglob('*.log')).read_text()
    assert all(f'loss_{name}' in log for name in ('main', 'stage1_aux', 'stage2_aux', 'stage3_first_aux'))


def test_the_trunk_loads_into_a_segmentor_with_no_key_left_over(pretrained, repo) -> None:
    from mmseg.registry import MODELS

    path = pretrained / 'tiny-pretrain.pth'
    cfg = Config.fromfile(repo / 'configs/upernet_repvgg_a0_camvid.py').model
    cfg.backbone.update(arch=TINY, init_cfg={'type': 'Pretrained', 'checkpoint': str(path)})
    segmentor = MODELS.build(cfg)
    segmentor.init_weights()
    tensors = weights(pretrained)['state_dict']
    trunk = segmentor.backbone.state_dict()
    assert set(tensors) - set(trunk) == {'linear.weight', 'linear.bias'} and trunk.keys() <= tensors.keys()
    assert all(torch.equal(value, tensors[key]) for key, value in trunk.items())


def test_progress_shows_speed_time_left_and_accuracy_of_both_weights(pretrained) -> None:
    log = next(pretrained.rglob('*.log')).read_text()
    assert re.search(r'Epoch\(train\) +\[2\]\[3/3\] .*eta: .*loss_custom_l2: .*images_per_s: [\d.]+', log)
    assert re.search(r'Epoch\(val\) \[2\].*accuracy/top1: [\d.]+ .*ema/accuracy/top1: [\d.]+', log)
    assert '8 images a step, where the learning rate 0.1 is for 256: it is scaled to 0.003125' in log


def test_a_compiled_network_trains_as_any_other(folders, pretrained, tmp_path, monkeypatch) -> None:
    calls = []

    def compiled(function):
        return lambda *args: calls.append(function) or function(*args)

    monkeypatch.setattr(torch, 'compile', compiled)  # compiling takes minutes, and is torch's to test
    assert run(*arguments(folders, tmp_path, '--compile', *RECIPE)) == 0
    assert len(calls) == 6 and {call.__name__ for call in calls} == {'forward_aux'}
    assert all(torch.equal(a, b) for a, b in zip(weights(pretrained)['state_dict'].values(),
                                                 weights(tmp_path)['state_dict'].values(), strict=True))  # fmt: skip


@pytest.mark.parametrize('dialect', ['timm'])  # the others are read in tests/weights
def test_evaluation_prints_both_forms_at_each_resolution_from_any_dialect(
    folders, pretrained, tmp_path, capsys, dialect: str
) -> None:
    from repvgg_seg.weights.pretrained import read_weights

    path = tmp_path / 'weights.pth'
    torch.save(from_official(read_weights(pretrained / 'tiny-pretrain.pth'), dialect), path)
    argv = ['--eval', path, '--arch', 'tiny', '--data-root', folders, '--deploy', '--resolution', 32, 48]
    assert run(*argv, '--work-dir', tmp_path / 'w', '--cfg-options', 'val_dataloader.num_workers=0') == 0
    table = capsys.readouterr().out
    for resolution in (32, 48):
        assert re.search(
            rf'{resolution}x{resolution}\n +train-time +deployed +difference\n'
            r' +top1 +(\d+\.\d\d) +\1 +\+0\.00\n +top5 +100\.00 +100\.00 +\+0\.00\n',
            table,
        )
    top1 = float(re.search(r'top1 +([\d.]+)', table)[1])
    assert top1 == pytest.approx(weights(pretrained)['meta']['top1'], abs=0.01)


def test_the_deployed_form_is_made_and_evaluated_on_its_own(folders, pretrained, tmp_path, capsys) -> None:
    assert tool('convert_deploy')(['tiny', str(pretrained / 'tiny-pretrain.pth'), str(tmp_path / 'd')]) == 0
    argv = ['--eval', tmp_path / 'd/deploy.pth', '--arch', 'tiny', '--data-root', folders, '--work-dir', tmp_path / 'w']
    workers = ['--cfg-options', 'val_dataloader.num_workers=0', 'val_dataloader.dataset.resolution=32']
    assert run(*argv, *workers) == 0
    table = capsys.readouterr().out
    assert f'top1  {weights(pretrained)["meta"]["top1"]:>10.2f}' in table and 'deployed' in table
    assert 'deployed already: leave --deploy out' in fails(capsys, *argv, '--deploy', *workers)


def test_finished_trainings_are_compared_in_both_forms(folders, pretrained, tmp_path, capsys) -> None:
    argv = ['pretraining', str(pretrained), '--data-root', str(folders), '--json', str(tmp_path / 'r.json')]
    assert tool('benchmark')([*argv, '--plot', str(tmp_path / 'r.png')]) == 0
    rows = Report.read((tmp_path / 'r.json').read_text()).rows
    top1 = weights(pretrained)['meta']['top1']
    for metric in ('top-1', 'top-1 of averaged weights'):
        epochs = [row for row in rows if row.metric == metric and row.variant.startswith('epoch')]
        assert [row.variant for row in epochs] == ['epoch 1', 'epoch 2']
    assert next(row.value for row in rows if row.variant == 'epoch 2') == pytest.approx(top1, abs=0.01)
    final = {row.variant: row for row in rows if row.metric == 'top-1' and not row.variant.startswith('epoch')}
    assert list(final) == ['train-time', 'deployed']
    assert [row.value for row in final.values()] == pytest.approx([top1, top1])
    assert final['deployed'].extra['custom_l2'] and 'top-5, %' in capsys.readouterr().out
    assert (tmp_path / 'r.png').stat().st_size > 5000
    assert tool('benchmark')(['pretraining', str(tmp_path), '--data-root', str(folders)]) == 2
    assert 'holds no finished pretraining' in capsys.readouterr().err


# ---- interrupted and resumed


def test_kill_9_in_the_middle_of_an_epoch_and_resuming_gives_the_same_weights(folders, pretrained, tmp_path) -> None:
    script = tmp_path / 'driver.py'
    script.write_text(DRIVER)
    argv = arguments(folders, tmp_path / 'w', *RECIPE)
    killed = subprocess.run(
        [sys.executable, str(script), *argv], env={**os.environ, 'KILL_AT': '5'}, capture_output=True, text=True
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr[-3000:]
    assert (tmp_path / 'w/last_checkpoint').read_text().endswith('iter_4.pth')  # the second of three in its epoch
    # Resumed, a training has the seed of its beginning, whatever it is given.
    assert run('--resume', *arguments(folders, tmp_path / 'w', *RECIPE, randomness__seed=7)) == 0
    log = max((tmp_path / 'w').rglob('*.log'), key=lambda p: p.stat().st_mtime).read_text()
    assert re.findall(r'Epoch\(train\) +(\[\d\]\[\d/3\])', log) == ['[2][2/3]', '[2][3/3]']
    for kind in ('', '-ema'):
        whole, resumed = (weights(work_dir, kind)['state_dict'] for work_dir in (pretrained, tmp_path / 'w'))
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


def test_a_finished_training_is_resumed_to_the_same_weights(folders, pretrained, tmp_path) -> None:
    latest = (pretrained / 'last_checkpoint').read_text()
    assert run(*arguments(folders, tmp_path, '--resume', latest, *RECIPE)) == 0
    whole, resumed = weights(pretrained)['state_dict'], weights(tmp_path)['state_dict']
    assert all(torch.equal(value, resumed[key]) for key, value in whole.items())


@pytest.mark.parametrize(
    ('more', 'options', 'message'),
    [
        (RECIPE, {'arch': 'tiny-plus'}, 'it is of a run with arch tiny instead of tiny-plus'),
        (RECIPE[2:], {}, 'recipe paper-200e instead of paper-120e'),
        (RECIPE[:2], {}, 'custom_l2 True instead of False'),
        (RECIPE, {'train_dataloader__batch_size': 4}, 'batch 8 instead of 4'),
        (RECIPE, {'train_cfg__max_epochs': 3}, 'max_epochs 2 instead of 3'),
    ],
)
def test_a_checkpoint_of_another_training(folders, pretrained, tmp_path, capsys, more, options, message) -> None:
    latest = (pretrained / 'last_checkpoint').read_text()
    text = fails(capsys, *arguments(folders, tmp_path / 'w', '--resume', latest, *more, **options))
    assert 'cannot be resumed here' in text and message in text and 'another --work-dir' in text
    assert not (tmp_path / 'w').exists()


def test_weights_are_no_checkpoint_to_resume(folders, pretrained, tmp_path, capsys) -> None:
    for file in ('gone.pth', 'tiny-pretrain.pth'):
        message = fails(capsys, *arguments(folders, tmp_path, '--resume', str(pretrained / file), *RECIPE))
        assert ('there is no checkpoint' if file == 'gone.pth' else 'is not a checkpoint of a training') in message


# ---- several processes


def test_two_processes_take_the_steps_of_one_that_accumulates(folders, tmp_path) -> None:
    """Each process of two normalises over its own half batch, as one process does that accumulates half batches."""
    config = tmp_path / 'constant.py'
    base = Path(__file__).parents[2] / 'configs/imagenet/paper_120e.py'
    config.write_text(f"_base_ = ['{base}']\nparam_scheduler = [dict(type='ConstantLR', factor=1.0)]\n")
    shared = ('--recipe', str(config))
    alone = arguments(folders, tmp_path / 'alone', *shared, train_dataloader__batch_size=4)
    assert run(*alone, 'optim_wrapper.accumulative_counts=2') == 0
    script = tmp_path / 'driver.py'
    script.write_text(DRIVER)
    together = arguments(
        folders, tmp_path / 'together', *shared, '--launcher', 'pytorch', train_dataloader__batch_size=4
    )
    torchrun = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
    done = subprocess.run([*torchrun, str(script), *together], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    halves, losses = (scalars(tmp_path / name, 'loss_main') for name in ('alone', 'together'))
    assert len(losses) == 6 and losses == pytest.approx(halves[::2], rel=1e-5)  # the first process logs its half
    one, two = (weights(tmp_path / name)['state_dict'] for name in ('alone', 'together'))
    for key, value in one.items():
        if 'running' not in key and 'num_batches' not in key:  # statistics: of both halves, of the first process
            assert torch.allclose(value, two[key], rtol=1e-4, atol=1e-6), key


def test_the_batch_of_the_recipe_is_divided_among_processes(monkeypatch, folders, tmp_path) -> None:
    monkeypatch.setattr(pretraining.Runner, 'from_cfg', lambda cfg: cfg)
    monkeypatch.setattr(pretraining, '_check_data', lambda cfg: 10000)
    monkeypatch.setattr(pretraining, 'get_world_size', lambda: 8)
    cfg = prepare(pretraining.config_of('paper-120e'), 'none')
    with pretraining.begin(cfg, recipe='paper-120e', work_dir=str(tmp_path)):
        pass
    assert cfg.train_dataloader.batch_size == cfg.train_dataloader.sampler.batch_size == 32
    assert 'custom_l2' not in cfg.model and cfg.param_scheduler[-1].end == 120


# ---- what a user can do wrong


def test_a_head_of_other_classes_than_the_data(folders, pretrained, tmp_path, capsys) -> None:
    message = fails(capsys, *arguments(folders, tmp_path / 'w', model__num_classes=1000))
    assert 'the head has 1000 classes but the data 3: pass --cfg-options model.num_classes=3' in message
    write_image(tmp_path / 'val/n01/1.JPEG', (0, 0, 0), 0)
    message = fails(capsys, '--eval', pretrained / 'tiny-pretrain.pth', '--arch', 'tiny', '--data-root', tmp_path)
    assert 'the head has 3 classes but the data 1' in message and not (tmp_path / 'w').exists()


def test_data_that_are_not_there_or_do_not_match(tmp_path, capsys) -> None:
    assert 'no train images' in fails(capsys, *arguments(tmp_path / 'nowhere', tmp_path / 'w'))
    write_folders(tmp_path / 'data')
    (tmp_path / 'data/val' / WNIDS[0]).rename(tmp_path / 'data/val/n09999999')
    message = fails(capsys, *arguments(tmp_path / 'data', tmp_path / 'w'))
    assert 'train and val have different classes' in message and not (tmp_path / 'w').exists()
    message = fails(capsys, *arguments(write_folders(tmp_path / 'few', train=2), tmp_path / 'w'))
    assert 'there are 6 training images, fewer than one batch of 8' in message and not (tmp_path / 'w').exists()


@pytest.mark.parametrize('workers', [0, 1])
def test_a_damaged_image_stops_the_training_and_is_named(tmp_path, capsys, workers: int) -> None:
    data = write_folders(tmp_path / 'data')
    victim = next((data / 'train' / WNIDS[1]).iterdir())
    victim.write_bytes(victim.read_bytes()[:300])
    message = fails(capsys, *arguments(data, tmp_path / 'w', train_dataloader__num_workers=workers))
    assert f'{victim} cannot be decoded' in message and 'replace or delete it' in message


def test_gradients_that_are_not_finite_name_the_batch_and_the_last_good_checkpoint(
    folders, tmp_path, capsys, monkeypatch
) -> None:
    step = loops.ResumableEpochLoop.run_iter

    def poisoned(self, idx, batch):
        if self.iter == 4:
            with torch.no_grad():
                next(self.runner.model.parameters()).fill_(torch.nan)
        step(self, idx, batch)

    monkeypatch.setattr(loops.ResumableEpochLoop, 'run_iter', poisoned)
    message = fails(capsys, *arguments(folders, tmp_path / 'w'))
    assert re.search(
        r'the norm of the gradients became nan in iteration 5 \(.*\.JPEG, .*\.JPEG\): '
        r'the last good checkpoint is .*/w/iter_4\.pth; look at these images',
        message,
    )
    assert not (tmp_path / 'w/iter_6.pth').exists() and not list(tmp_path.glob('*/*pretrain*'))


def test_arguments_that_would_do_nothing(capsys, folders, tmp_path) -> None:
    for argv, message in (
        (['--deploy'], '--deploy and --resolution go with --eval'),
        (['--resolution', '64'], '--deploy and --resolution go with --eval'),
        (['--eval', 'x.pth', '--custom-l2'], '--custom-l2 would do nothing with --eval'),
        (['--eval', 'x.pth', '--amp'], '--amp would do nothing with --eval'),
    ):
        assert message in fails(capsys, *argv)


def test_unknown_names(capsys, folders, tmp_path) -> None:
    assert "unknown arch 'RepVGG-Z'" in fails(capsys, *arguments(folders, tmp_path / 'w', arch='RepVGG-Z'))
    assert 'there is no config paper-90e' in fails(capsys, '--recipe', 'paper-90e')
    config = Path(__file__).parents[2] / 'configs/pspnet_repvgg_a0_demo.py'
    assert 'is not the config of a classifier' in fails(capsys, '--recipe', config)
    torch.save(RepVGG(TINY).state_dict(), tmp_path / 'trunk.pth')
    message = fails(capsys, '--eval', tmp_path / 'trunk.pth', '--data-root', folders)
    assert 'has no classifier (linear.weight)' in message
