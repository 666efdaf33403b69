# python tools/train.py configs/upernet_repvgg_d2se_cityscapes.py
# Cost: 80k iterations of 8 crops of 512x1024; 175.8 M parameters, 161.4 M deployed.
# Only one training step was run here: there was no GPU and no Cityscapes.
# Expect: not known.
_base_ = ['_base_/upernet_cityscapes.py']
model = dict(backbone=dict(arch='RepVGG-D2se', init_cfg=dict(type='Pretrained', checkpoint='repvgg://RepVGG-D2se')))
