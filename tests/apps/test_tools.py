"""The command lines from end to end: train, resume, convert, evaluate, and what a user can do wrong."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
import torch
from mmengine.config import Config
from mmseg.apis import MMSegInferencer, inference_model, init_model
from mmseg.models.segmentors import EncoderDecoder

from repvgg_seg import VARIANTS, RepVGGBlock
from repvgg_seg.deploy.convert import is_deployed
from repvgg_seg.deploy.graph import InferenceGraph
from repvgg_seg.openmmlab.skip_unreadable import GuardedRunner
from repvgg_seg.runtime.precision import Precision
from repvgg_seg.workflows.config import build_segmentor, load_config, recorded_config
from repvgg_seg.workflows.deployed import load_deployed
from repvgg_seg.workflows.evaluation import evaluate
from repvgg_seg.workflows.work_dir import find_checkpoint, open_checkpoint
from tests.conftest import fails, latest, tool, without_hash_of_config


def image_of(data: Path) -> str:
    return str(next((data / 'leftImg8bit/val').rglob('*.png')))


# ---- what works


def test_training_leaves_checkpoints_with_classes_and_palette(trained) -> None:
    assert latest(trained).name == 'iter_4.pth'
    assert len(list(trained.glob('best_mIoU_iter_*.pth'))) == 1


def test_the_deployed_files_are_plain_data_and_say_what_was_proved(deployed) -> None:
    checkpoint = torch.load(deployed / 'deploy.pth', weights_only=True)
    assert checkpoint['meta']['dataset_meta']['classes'][0] == 'road'
    assert len(checkpoint['meta']['dataset_meta']['palette']) == 19
    keys = set(checkpoint['state_dict'])
    assert any('rbr_reparam' in key for key in keys)
    assert not any(re.search(r'rbr_(dense|1x1|identity)|auxiliary_head', key) for key in keys)
    report = json.loads((deployed / 'report.json').read_text())
    deviations = {d['check']: d['max_rel'] for d in report['verification']}
    assert deviations['algebra'] < 1e-10 and deviations['weights'] < 1e-6 and deviations['float32'] < 1e-5
    assert report['deployed']['bytes'] == (deployed / 'deploy.pth').stat().st_size


def test_stock_mmseg_runs_both_forms_with_the_same_result(
    tiny_config, trained, deployed, demo_data, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    image = image_of(demo_data)
    train_time = init_model(str(tiny_config), str(find_checkpoint(trained)), device='cpu')
    plain = init_model(str(deployed / 'deploy.py'), str(deployed / 'deploy.pth'), device='cpu')
    assert all(m.deploy for m in plain.modules() if isinstance(m, RepVGGBlock))
    assert plain.dataset_meta['classes'] == list(train_time.dataset_meta['classes'])
    with torch.no_grad():
        graph, reference = (InferenceGraph(model) for model in (plain, train_time))
        rgb = torch.from_numpy(cv2.imread(image)[None, :, :, ::-1].copy())
        assert torch.equal(graph(rgb), inference_model(plain, image).pred_sem_seg.data.to(torch.uint8))
        agreement = (graph(rgb) == reference(rgb)).float().mean()
    assert agreement > 0.999


def test_the_inferencer_of_mmseg_takes_both_forms(
    tiny_config, trained, deployed, demo_data, tmp_path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    masks = []
    for config, weights in (
        (tiny_config, find_checkpoint(trained)),
        (deployed / 'deploy.py', deployed / 'deploy.pth'),
    ):
        inferencer = MMSegInferencer(str(config), str(weights), device='cpu', show_progress=False)
        masks.append(inferencer(image_of(demo_data), out_dir=str(tmp_path / 'out'))['predictions'])
    assert masks[0].shape == (64, 128) and (masks[0] == masks[1]).mean() > 0.999


def test_evaluation_of_both_forms_agrees_and_draws(tiny_config, trained, demo_data, tmp_path, capsys) -> None:
    argv = [
        str(tiny_config),
        str(trained),
        '--deploy',
        '--out',
        str(tmp_path / 'masks'),
        '--show-dir',
        str(tmp_path / 'overlays'),
    ]
    assert tool('test')([*argv, '--work-dir', str(tmp_path / 'work')]) == 0
    table = capsys.readouterr().out
    assert re.search(r'train-time +deployed +difference', table)
    numbers = re.search(r'mIoU +([\d.]+) +([\d.]+) +([+-][\d.]+)', table)
    assert numbers and numbers[1] == numbers[2] and float(numbers[3]) == 0
    masks = sorted((tmp_path / 'masks').glob('*/*.png'))  # in the folders of the images
    assert len(masks) == 4 and cv2.imread(str(masks[0]), cv2.IMREAD_UNCHANGED).shape == (64, 128)
    drawings = sorted((tmp_path / 'overlays').glob('*/*.png'))
    assert len(drawings) == 4 and cv2.imread(str(drawings[0])).shape == (64, 256, 3)


def test_blocks_of_neck_and_head_are_converted_loaded_and_evaluated(tiny_config, tmp_path, monkeypatch) -> None:
    config, out = tmp_path / 'blocks.py', tmp_path / 'deploy'
    channels = [*VARIANTS['RepVGG-A0'].channels[1:3]]
    config.write_text(
        f"_base_ = ['{tiny_config}']\n"
        "custom_imports = dict(imports=['repvgg_seg.openmmlab', 'tests.segmentors'])\n"
        f"model = dict(neck=dict(type='BlockNeck', channels={channels}), auxiliary_head=None, decode_head=dict(\n"
        f"    _delete_=True, type='BlockHead', in_channels={channels[1]}, in_index=1, channels=8, num_classes=19))\n"
    )
    cfg = load_config(config)
    torch.save({'state_dict': build_segmentor(cfg).state_dict()}, tmp_path / 'weights.pth')
    assert tool('convert_deploy')([str(config), str(tmp_path / 'weights.pth'), str(out)]) == 0
    assert is_deployed(init_model(str(out / 'deploy.py'), str(out / 'deploy.pth'), device='cpu'))
    assert is_deployed(load_deployed(out)[1])

    forms = []
    monkeypatch.setattr(GuardedRunner, 'test', lambda runner: forms.append(runner.model) or {})
    evaluate(cfg, open_checkpoint(tmp_path / 'weights.pth'), deploy=True, work_dir=str(tmp_path))
    before, after = forms
    assert not any(block.deploy for block in before.modules() if isinstance(block, RepVGGBlock)) and is_deployed(after)


def test_an_older_folder_whose_backbone_says_deploy_still_works(deployed, tmp_path) -> None:
    without_hash_of_config(shutil.copytree(deployed, tmp_path / 'old'))
    cfg = Config.fromfile(deployed / 'deploy.py')
    cfg.model.type = cfg.model.pop('segmentor')
    cfg.model.backbone.deploy = True
    cfg.dump(tmp_path / 'old/deploy.py')
    _, segmentor, *_ = load_deployed(tmp_path / 'old')
    expected = load_deployed(deployed)[1].state_dict()
    assert all(torch.equal(value, expected[name]) for name, value in segmentor.state_dict().items())


def test_a_deployed_model_is_evaluated_like_any_other(deployed, tmp_path, capsys) -> None:
    argv = [str(deployed / 'deploy.py'), str(deployed / 'deploy.pth'), '--work-dir', str(tmp_path)]
    assert tool('test')(argv) == 0
    assert 'deployed' in capsys.readouterr().out


def test_test_time_augmentation_runs_on_both_forms(tiny_config, trained, tmp_path, capsys) -> None:
    argv = [str(tiny_config), str(trained), '--tta', '--deploy', '--work-dir', str(tmp_path), '--cfg-options']
    assert tool('test')([*argv, 'test_dataloader.dataset.indices=1']) == 0
    assert re.search(r'mIoU +([\d.]+) +\1 +\+0.00', capsys.readouterr().out)


def test_resuming_goes_on_where_the_run_stopped(tiny_config, trained, tmp_path) -> None:
    stopped = tmp_path / 'stopped'
    argv = [str(tiny_config), '--work-dir', str(stopped)]
    assert tool('train')([*argv, '--cfg-options', 'train_cfg.max_iters=2']) == 0
    assert tool('train')([*argv, '--resume']) == 0
    log = max(stopped.rglob('*.log'), key=lambda p: p.stat().st_mtime).read_text()
    assert re.search(r'Iter\(train\) +\[3/4\]', log) and not re.search(r'Iter\(train\) +\[[12]/4\]', log)
    assert latest(stopped).name == 'iter_4.pth'


def test_a_batch_that_does_not_fit_the_learning_rate_is_reported_and_can_scale_it(
    tiny_config, trained, tmp_path
) -> None:
    told = 'this run has batches of 2 (1 processes x 2 images), but its learning rate is for 4: scale it by 0.5 with'
    assert told in next(trained.rglob('*.log')).read_text()
    argv = [str(tiny_config), '--work-dir', str(tmp_path), '--cfg-options', 'auto_scale_lr.enable=True']
    options = ['param_scheduler=None', 'train_cfg.max_iters=1', 'train_cfg.val_interval=9']
    assert tool('train')([*argv, *options]) == 0
    log = next(tmp_path.rglob('*.log')).read_text()
    assert re.search(r'Iter\(train\) \[1/1\] +lr: 1.0000e-03', log) and 'its learning rate is for' not in log


def test_mixed_precision_on_the_cpu_trains_in_bfloat16_where_that_is_fast(tiny_config, tmp_path, monkeypatch) -> None:
    from repvgg_seg.apps import train as training

    cfg = load_config(tiny_config, {'data_root': '/nowhere'})
    assert {cfg[f'{name}_dataloader'].dataset.data_root for name in ('train', 'val', 'test')} == {'/nowhere'}
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    monkeypatch.setattr(Precision, 'fast_on_this_cpu', lambda row: False)
    assert training.prepare(cfg, 'none', amp=True).optim_wrapper.type == 'OptimWrapper'
    monkeypatch.setattr(Precision, 'fast_on_this_cpu', lambda row: True)
    assert training.prepare(cfg, 'none', amp=True).optim_wrapper.type == 'AutocastOptimWrapper'


def test_autocast_optim_wrapper_computes_in_bfloat16_and_keeps_float32_weights() -> None:
    from repvgg_seg.openmmlab import AutocastOptimWrapper

    model = torch.nn.Conv2d(3, 4, 3)
    wrapper = AutocastOptimWrapper(optimizer=torch.optim.SGD(model.parameters(), lr=0.1))
    with wrapper.optim_context(model):
        out = model(torch.randn(1, 3, 8, 8))
    assert out.dtype == torch.bfloat16
    before = model.weight.clone()
    wrapper.update_params(out.float().square().mean())
    assert model.weight.dtype == torch.float32 and not torch.equal(before, model.weight)


def test_two_processes_train_through_torchrun_from_another_directory(repo, tiny_config, tmp_path) -> None:
    command = [
        sys.executable,
        '-m',
        'torch.distributed.run',
        '--standalone',
        '--nproc-per-node',
        '2',
        str(repo / 'tools/train.py'),
    ]
    options = ['--launcher', 'pytorch', '--cfg-options', 'train_cfg.max_iters=2', 'train_cfg.val_interval=2']
    done = subprocess.run(
        [*command, str(tiny_config), '--work-dir', str(tmp_path / 'work'), *options],
        cwd=tmp_path, capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    assert latest(tmp_path / 'work').is_file()
    assert re.search(r'Iter\(val\) +\[2/2\]', done.stderr + done.stdout)  # four images, two a process


# ---- what a user can do wrong


def test_missing_data(capsys, repo, tmp_path) -> None:
    config = repo / 'configs/pspnet_repvgg_b2_cityscapes.py'
    message = fails(
        capsys, 'train', config, '--work-dir', tmp_path / 'w', '--cfg-options', f'data_root={tmp_path / "no"}'
    )
    assert re.search(
        r'no data for train_dataloader \(img_path\): .*/no/leftImg8bit/train does not exist\. Put the data',
        message,
    )
    assert 'make_demo_data.py' in message and not (tmp_path / 'w').exists()


def test_cityscapes_without_train_ids_says_how_they_are_made(capsys, tiny_config, demo_data, tmp_path) -> None:
    shutil.copytree(demo_data, tmp_path / 'data')
    for mask in (tmp_path / 'data').rglob('*_labelTrainIds.png'):
        mask.unlink()
    argv = [tiny_config, '--work-dir', tmp_path / 'w', '--cfg-options', f'data_root={tmp_path / "data"}']
    message = fails(capsys, 'train', *argv)
    assert re.search(
        r'holds no \*_gtFine_labelTrainIds\.png .* by "python tools/make_train_ids\.py \S+/data"\)', message
    )
    assert not (tmp_path / 'w').exists()


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('model = dict(\n', r'line 1: .* was never closed'),
        ('a = 1\n', 'is not the config of a segmentor: it has no model.backbone'),
    ],
)
def test_files_that_are_not_configs_are_refused(capsys, tmp_path, text: str, message: str) -> None:
    (tmp_path / 'config.py').write_text(text)
    for name, *argv in (['train'], ['test', 'x.pth'], ['convert_deploy', 'x.pth', tmp_path / 'out']):
        assert re.search(message, fails(capsys, name, tmp_path / 'config.py', *argv))


def test_a_misspelt_option_is_refused(capsys, tiny_config) -> None:
    message = fails(capsys, 'train', tiny_config, '--cfg-options', 'trian_cfg.max_iters=1')
    assert "has no 'trian_cfg' to change: did you mean 'train_cfg'?" in message


@pytest.mark.parametrize('name', ['train', 'test'])
def test_an_option_without_a_value_is_refused(capsys, name: str, tiny_config) -> None:
    argv = [tiny_config, *(['x.pth'] if name == 'test' else []), '--cfg-options', 'train_cfg.max_iters']
    assert "'train_cfg.max_iters' is not of the form KEY=VALUE" in fails(capsys, name, *argv)


def test_a_launcher_without_its_processes_is_refused(capsys, tiny_config, tmp_path, monkeypatch) -> None:
    monkeypatch.delenv('RANK', raising=False)
    message = fails(capsys, 'train', tiny_config, '--launcher', 'pytorch', '--work-dir', tmp_path / 'w')
    assert '--launcher pytorch is for processes that torchrun started' in message


def test_the_weights_that_a_training_began_with_are_not_evaluated(tiny_config, trained, tmp_path, capsys) -> None:
    config = tmp_path / 'finetuned.py'
    config.write_text(f"_base_ = ['{tiny_config}']\nload_from = '{tmp_path / 'gone.pth'}'\nresume = True\n")
    assert tool('test')([str(config), str(trained), '--work-dir', str(tmp_path / 'w')]) == 0
    found = float(re.search(r'mIoU +([\d.]+)', capsys.readouterr().out.split('train-time')[-1])[1])
    best = open_checkpoint(trained).content['message_hub']['runtime_info']['best_score']  # what training measured
    assert found == pytest.approx(best, abs=0.005)


def test_missing_config_and_checkpoint(capsys, tiny_config, trained, tmp_path) -> None:
    assert 'there is no config nowhere.py' in fails(capsys, 'train', 'nowhere.py')
    assert 'there is no config nowhere.py' in fails(capsys, 'convert_deploy', 'nowhere.py', trained, tmp_path / 'out')
    assert 'gone.pth' in fails(capsys, 'convert_deploy', tiny_config, tmp_path / 'gone.pth', tmp_path / 'out')
    assert 'gone.pth' in fails(capsys, 'test', tiny_config, tmp_path / 'gone.pth', '--work-dir', tmp_path / 'w')
    (tmp_path / 'empty').mkdir()
    assert 'holds no checkpoint' in fails(capsys, 'convert_deploy', tiny_config, tmp_path / 'empty', tmp_path / 'out')
    message = fails(capsys, 'train', tiny_config, '--work-dir', tmp_path / 'w', '--resume', tmp_path / 'gone.pth')
    assert 'there is no checkpoint' in message
    assert not (tmp_path / 'out').exists() and not (tmp_path / 'w').exists()


def test_an_arch_without_released_weights(capsys, tiny_config, tmp_path) -> None:
    options = ['arch=RepVGG-B2g2', 'init_cfg.type=Pretrained', 'init_cfg.checkpoint=repvgg://']
    argv = [tiny_config, '--work-dir', tmp_path / 'run', '--cfg-options', *(f'model.backbone.{o}' for o in options)]
    message = fails(capsys, 'train', *argv)
    assert 'nobody has released weights of RepVGG-B2g2: to train without them, pass --cfg-options' in message
    assert not (tmp_path / 'run').exists()


def test_unknown_arch(capsys, tiny_config, trained, tmp_path) -> None:
    message = fails(
        capsys,
        'train',
        tiny_config,
        '--work-dir',
        tmp_path / 'w',
        '--cfg-options',
        'model.backbone.arch=RepVGG-Z1',
    )
    assert "unknown arch 'RepVGG-Z1'" in message and not (tmp_path / 'w').exists()
    assert "unknown arch 'RepVGG-Z1'" in fails(capsys, 'convert_deploy', 'RepVGG-Z1', latest(trained), tmp_path / 'out')
    assert not (tmp_path / 'out').exists()


def test_a_checkpoint_of_another_network(capsys, tiny_config, trained, tmp_path) -> None:
    other = tmp_path / 'other.py'
    other.write_text(f"_base_ = ['{tiny_config}']\nmodel = dict(decode_head=dict(channels=16))\n")
    message = fails(capsys, 'convert_deploy', other, trained, tmp_path / 'out')
    assert 'decode_head' in message and not (tmp_path / 'out').exists()
    torch.save(torch.nn.Linear(2, 2).state_dict(), tmp_path / 'linear.pth')
    message = fails(capsys, 'test', tiny_config, tmp_path / 'linear.pth', '--work-dir', tmp_path / 'w')
    assert 'these are not the weights of a RepVGG' in message


def test_train_time_weights_into_a_deployed_model_and_the_reverse(
    capsys, tiny_config, trained, deployed, tmp_path
) -> None:
    message = fails(capsys, 'test', deployed / 'deploy.py', latest(trained), '--work-dir', tmp_path)
    assert 'train-time' in message and 'deployed' in message
    message = fails(capsys, 'test', tiny_config, deployed / 'deploy.pth', '--work-dir', tmp_path)
    assert 'train-time' in message and 'deployed' in message
    with pytest.raises(ValueError, match='these are train-time weights'):  # where mmseg alone would only warn
        init_model(str(deployed / 'deploy.py'), str(latest(trained)), device='cpu')


def test_converting_what_is_deployed_already(capsys, deployed, tmp_path) -> None:
    message = fails(capsys, 'convert_deploy', deployed / 'deploy.py', deployed / 'deploy.pth', tmp_path / 'out')
    assert 'describes a deployed model already' in message
    message = fails(capsys, 'test', deployed / 'deploy.py', deployed / 'deploy.pth', '--deploy', '--work-dir', tmp_path)
    assert 'leave --deploy out' in message


def test_a_model_without_repvgg_blocks(capsys, tiny_config, tmp_path) -> None:
    config = tmp_path / 'resnet.py'
    config.write_text(
        f"_base_ = ['{tiny_config}']\n"
        "model = dict(backbone=dict(_delete_=True, type='ResNet', depth=18), "
        'decode_head=dict(in_channels=128), auxiliary_head=dict(in_channels=64))\n'
    )
    cfg = Config.fromfile(config)
    model = build_segmentor(cfg)
    assert isinstance(model, EncoderDecoder)
    torch.save({'state_dict': model.state_dict(), 'meta': {}}, tmp_path / 'resnet.pth')
    message = fails(capsys, 'convert_deploy', config, tmp_path / 'resnet.pth', tmp_path / 'out')
    assert 'contains no RepVGG block: there is nothing to convert' in message and not (tmp_path / 'out').exists()


def test_a_conversion_whose_verification_fails_writes_nothing(capsys, tiny_config, trained, tmp_path) -> None:
    from repvgg_seg.weights.checkpoint_io import read_checkpoint

    checkpoint = read_checkpoint(latest(trained))
    checkpoint['state_dict']['backbone.stage2.0.rbr_dense.bn.running_var'].fill_(-1)  # no square root
    torch.save({'state_dict': checkpoint['state_dict'], 'meta': {}}, tmp_path / 'broken.pth')
    message = fails(capsys, 'convert_deploy', tiny_config, tmp_path / 'broken.pth', tmp_path / 'out')
    assert 'the converted model is not equal to the original' in message and not (tmp_path / 'out').exists()


def test_colliding_distributions(capsys, tiny_config, trained, tmp_path, monkeypatch) -> None:
    from repvgg_seg import cli, doctor

    problem = doctor.Problem('mmcv and onedl-mmcv are both installed', 'pip uninstall mmcv')
    monkeypatch.setattr(cli, 'check_distributions', lambda needs: [problem])
    message = fails(capsys, 'convert_deploy', tiny_config, trained, tmp_path / 'out')
    assert 'both installed' in message and 'pip uninstall mmcv' in message and not (tmp_path / 'out').exists()


def test_a_moved_work_directory_still_finds_its_latest_checkpoint(trained, tmp_path) -> None:
    shutil.copytree(trained, tmp_path / 'work')
    (tmp_path / 'work/last_checkpoint').write_text('/moved/away/iter_4.pth')  # the folder was moved
    for best in (tmp_path / 'work').glob('best_*'):
        best.unlink()
    assert find_checkpoint(tmp_path / 'work') == str(tmp_path / 'work/iter_4.pth')
    (tmp_path / 'work/best_mIoU_iter_400.pth').touch()  # of an earlier, longer run
    assert find_checkpoint(tmp_path / 'work') == str(tmp_path / 'work/iter_4.pth')
    (tmp_path / 'work/best_mIoU_iter_2.pth').touch()
    assert find_checkpoint(tmp_path / 'work') == str(tmp_path / 'work/best_mIoU_iter_2.pth')


@pytest.mark.parametrize('name', ['train', 'test', 'convert_deploy', 'convert_masks', 'make_demo_data', 'export'])
def test_help(name: str, capsys) -> None:
    with pytest.raises(SystemExit) as stop:
        tool(name)(['--help'])
    assert stop.value.code == 0 and 'python tools/' in capsys.readouterr().out


def test_a_work_directory_of_another_training_is_not_mixed_with_this_one(
    trained, tiny_config, tmp_path, capsys
) -> None:
    work = shutil.copytree(trained, tmp_path / 'work')
    other = ['--cfg-options', 'model.backbone.arch=RepVGG-A1', 'train_cfg.max_iters=2']
    message = fails(capsys, 'train', tiny_config, '--work-dir', work, *other)
    assert f'{work} holds best_mIoU_iter_' in message and 'go on with it by --resume' in message
    assert (work / 'iter_4.pth').read_bytes() == (trained / 'iter_4.pth').read_bytes()
    assert tool('train')([str(tiny_config), '--work-dir', str(work), '--overwrite', *other]) == 0
    assert {path.name for path in work.glob('*.pth')} == {'iter_2.pth', 'best_mIoU_iter_2.pth'}
    assert recorded_config(open_checkpoint(work)).model.backbone.arch == 'RepVGG-A1'


def test_a_batch_of_one_image_is_refused_before_anything_is_written(tiny_config, tmp_path, capsys) -> None:
    argv = [tiny_config, '--work-dir', tmp_path / 'work', '--cfg-options']
    message = fails(capsys, 'train', *argv, 'train_dataloader.batch_size=1')
    assert 'the batch norm in decode_head.psp_modules.0 cannot learn from the one pixel' in message
    assert not (tmp_path / 'work').exists()
    message = fails(
        capsys, 'train', *argv, 'train_dataloader.batch_size=9', 'train_dataloader.sampler.type=DefaultSampler'
    )
    assert '8 training images make no batch of 9' in message
