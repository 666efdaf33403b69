# python tools/train.py configs/pspnet_repvgg_b3g4_cityscapes.py
# Cost: 80k iterations of 8 crops of 512x1024; 109.5 M parameters, 99.6 M deployed.
# Only one training step was run here: there was no GPU and no Cityscapes.
# Expect: not known.
_base_ = ['_base_/pspnet_cityscapes.py']
model = dict(backbone=dict(arch='RepVGG-B3g4', init_cfg=dict(type='Pretrained', checkpoint='repvgg://RepVGG-B3g4')))
