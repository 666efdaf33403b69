"""Blocks of other libraries: fused, proved equal by the same checks, and exported."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from repvgg_seg import Segmenter, switch_to_deploy
from repvgg_seg.deploy.convert import VerificationError, verify_classifier
from repvgg_seg.deploy.python_model import PythonSegmentor, convert_python_checkpoint, load_python_model
from tests.conftest import fails, randomise, tool

SIZES = ((32, 64), (45, 33))


def tiny_timm(block: str) -> nn.Module:
    """Return a small network of timm's blocks, with grouped and dilated ones and squeeze-and-excitation."""
    byobnet = pytest.importorskip('timm.models.byobnet', reason='timm is not installed')
    options = {'num_conv_branches': 2} if block == 'one' else {}
    stages = tuple(
        byobnet.ByoBlockCfg(type=block, d=depth, c=channels, s=2, gs=groups, block_kwargs=options)
        for depth, channels, groups in ((1, 8, 0), (2, 16, 8), (2, 16, 0))
    )
    cfg = byobnet.ByoModelCfg(blocks=stages, stem_type=block, stem_chs=8, attn_layer='se')
    return byobnet.ByobNet(cfg, num_classes=5)


def smp_unet(encoder: str) -> nn.Module:
    smp = pytest.importorskip('segmentation_models_pytorch', reason='segmentation_models.pytorch is not installed')
    return smp.Unet(encoder, encoder_weights=None, encoder_depth=3, decoder_channels=(16, 8, 8), classes=3)


def mmpretrain_net(se: bool) -> nn.Module:
    repvgg = pytest.importorskip('mmpretrain.models.backbones.repvgg', reason='mmpretrain is not installed')
    options = {'se_cfg': {'ratio': 4, 'divisor': 1}} if se else {}
    blocks = [repvgg.RepVGGBlock(3, 8, 2, **options)] + [repvgg.RepVGGBlock(8, 8, 1, **options) for _ in range(2)]
    return nn.Sequential(*blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())


@pytest.mark.parametrize(
    'make',
    [
        lambda: tiny_timm('rep'), lambda: tiny_timm('one'), lambda: mmpretrain_net(False), lambda: mmpretrain_net(True)
    ],
    ids=['timm RepVGG', 'timm MobileOne', 'mmpretrain', 'mmpretrain with SE'],
)  # fmt: skip
def test_blocks_of_other_libraries_are_fused_and_proved(make) -> None:
    model = randomise(make()).eval()
    deployed = switch_to_deploy(model)
    assert sum(p.numel() for p in deployed.parameters()) < sum(p.numel() for p in model.parameters())
    assert {check.check for check in verify_classifier(model, deployed, SIZES)} == {'algebra', 'weights', 'float32'}
    kernel = next(p for name, p in deployed.named_parameters() if 'reparam' in name and name.endswith('weight'))
    with torch.no_grad():
        kernel[0] *= 1.01
    with pytest.raises(VerificationError, match='is not equal to the original'):
        verify_classifier(model, deployed, SIZES)


@pytest.mark.parametrize('encoder', ['tu-repvgg_a0', 'mobileone_s0'])
def test_unets_of_smp_are_converted_exported_and_run(encoder, tmp_path, monkeypatch) -> None:
    model = randomise(smp_unet(encoder)).eval()
    (tmp_path / f'net_{encoder[-2:]}.py').write_text(
        f'from tests.deploy.test_python_model import smp_unet\ndef build():\n    return smp_unet({encoder!r})\n'
    )
    monkeypatch.chdir(tmp_path)
    torch.save({'state_dict': {f'module.{key}': value for key, value in model.state_dict().items()}}, 'weights.pth')
    colours = [{'name': name, 'color': [i, i, i]} for i, name in enumerate(['sky', 'road', 'car'])]
    (tmp_path / 'classes.json').write_text(json.dumps({'classes': colours}))
    name = f'net_{encoder[-2:]}:build'
    argv = ['--python', name, 'weights.pth', 'deploy', '--classes', 'classes.json']
    assert tool('convert_deploy')(argv) == 0
    report = json.loads((tmp_path / 'deploy/report.json').read_text())
    assert report['parameters']['deploy'] < report['parameters']['train'] and report['model'] == name
    if encoder != 'tu-repvgg_a0':
        return  # exported in the same way
    argv = ['deploy', '--python', name, '--to', 'onnx', '--size', '32x64', '--out', 'model.onnx']
    assert tool('export')(argv) == 0
    segmenter = Segmenter('model.onnx')
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    Image.fromarray(image).save('a.png')
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    with torch.no_grad():
        logits = model(((torch.from_numpy(image) / 255 - mean) / std).permute(2, 0, 1)[None])[0]
    margin = logits.topk(2, 0).values.diff(dim=0).abs()[0].numpy() > 1e-3
    assert segmenter.classes == ('sky', 'road', 'car') and margin.mean() > 0.9
    assert np.array_equal(segmenter('a.png')[margin], logits.argmax(0).numpy()[margin])
    with pytest.raises(ValueError, match='was converted from net_a0:build, and not from os:getcwd'):
        load_python_model('deploy', 'os:getcwd')


def plain() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3))


def ours() -> nn.Module:
    from repvgg_seg import RepVGGBlock

    return nn.Sequential(RepVGGBlock(3, 4), nn.Conv2d(4, 2, 1))


def test_what_is_no_such_model_is_one_sentence(tmp_path, capsys) -> None:
    torch.save(ours().state_dict(), tmp_path / 'ours.pth')
    torch.save(plain().state_dict(), tmp_path / 'plain.pth')
    here = 'tests.deploy.test_python_model'
    for name, weights, message in (
        (f'{here}:plain', 'plain.pth', 'contains no RepVGG block'),
        (f'{here}:ours', 'plain.pth', 'does not fit the model: it lacks'),
        (f'{here}:nothing', 'ours.pth', 'cannot be imported'),
        (f'{here}:np.sum', 'ours.pth', 'cannot be imported'),
        ('os:getcwd', 'ours.pth', 'returns a str, and not a torch module'),
        (here, 'ours.pth', 'names no factory'),
    ):
        out = tmp_path / 'out'
        assert message in fails(capsys, 'convert-deploy', '--python', name, tmp_path / weights, out)
        assert not out.exists()
    convert_python_checkpoint(f'{here}:ours', tmp_path / 'ours.pth', tmp_path / 'out')
    segmentor, meta, _ = load_python_model(tmp_path / 'out', f'{here}:ours')
    assert isinstance(segmentor, PythonSegmentor) and meta == {'classes': [], 'palette': []}
    (tmp_path / 'out/deploy.pth').write_bytes(b'changed')
    with pytest.raises(ValueError, match='is not the file that'):
        load_python_model(tmp_path / 'out', f'{here}:ours')
