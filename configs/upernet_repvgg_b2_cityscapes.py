# python tools/train.py configs/upernet_repvgg_b2_cityscapes.py
# Cost: 80k iterations of 8 crops of 512x1024; 131.5 M parameters, 121.3 M deployed.
# Only one training step was run here: there was no GPU and no Cityscapes.
# Expect: not known.
_base_ = ['_base_/upernet_cityscapes.py']
model = dict(backbone=dict(arch='RepVGG-B2', init_cfg=dict(type='Pretrained', checkpoint='repvgg://RepVGG-B2')))
