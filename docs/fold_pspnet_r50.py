"""Fold the head of a stock mmsegmentation PSPNet on ResNet-50, and see that its output stays the same.

python docs/fold_pspnet_r50.py
"""

import copy

import torch
from mmseg.registry import MODELS
from torch.utils.flop_counter import FlopCounterMode

from repvgg_seg.openmmlab import fold_heads

pspnet = MODELS.build(
    dict(
        type='EncoderDecoder',
        backbone=dict(type='ResNetV1c', depth=50, strides=(1, 2, 1, 1), dilations=(1, 1, 2, 4), contract_dilation=True),
        decode_head=dict(type='PSPHead', in_channels=2048, in_index=3, channels=512, num_classes=19),
        test_cfg=dict(mode='whole'),
    )
).eval()  # to use it, load its checkpoint: here or after folding

folded = copy.deepcopy(pspnet)
fold_heads(folded)

image = torch.randn(1, 3, 129, 257)
with torch.no_grad():
    expected, result = pspnet(image), folded(image)
    print(f'largest relative deviation: {(result - expected).abs().max() / expected.abs().max():.1e}')
    for name, model in ('plain', pspnet), ('folded', folded):
        with FlopCounterMode(display=False) as counter:
            model.to('meta')(torch.empty(1, 3, 512, 1024, device='meta'))
        print(f'{name}: {counter.get_total_flops() / 1e9:.0f} GFLOP at 512x1024')
