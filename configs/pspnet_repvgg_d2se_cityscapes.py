# python tools/train.py configs/pspnet_repvgg_d2se_cityscapes.py
# Cost: 80k iterations of 8 crops of 512x1024; 158.7 M parameters, 144.3 M deployed.
# Only one training step was run here: there was no GPU and no Cityscapes.
# Expect: not known.
_base_ = ['_base_/pspnet_cityscapes.py']
model = dict(backbone=dict(arch='RepVGG-D2se', init_cfg=dict(type='Pretrained', checkpoint='repvgg://RepVGG-D2se')))
