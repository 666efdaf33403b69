# python tools/train.py configs/pspnet_repvgg_b1g4_cityscapes.py
# Cost: 80k iterations of 8 crops of 512x1024; 62.2 M parameters, 57.2 M deployed.
# Only one training step was run here: there was no GPU and no Cityscapes.
# Expect: not known.
_base_ = ['_base_/pspnet_cityscapes.py']
model = dict(backbone=dict(arch='RepVGG-B1g4', init_cfg=dict(type='Pretrained', checkpoint='repvgg://RepVGG-B1g4')))
