# python tools/train.py configs/pspnet_repvgg_a1_cityscapes.py
# Cost: 80k iterations of 8 crops of 512x1024; 31.4 M parameters, 29.5 M deployed.
# Only one training step was run here: there was no GPU and no Cityscapes.
# Expect: not known.
_base_ = ['_base_/pspnet_cityscapes.py']
model = dict(backbone=dict(arch='RepVGG-A1', init_cfg=dict(type='Pretrained', checkpoint='repvgg://RepVGG-A1')))
