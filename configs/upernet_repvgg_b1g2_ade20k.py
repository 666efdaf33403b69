# python tools/train.py configs/upernet_repvgg_b1g2_ade20k.py
# Cost: 160k iterations of 16 crops of 512x512; 85.1 M parameters, 79.4 M deployed.
# Not run here: there was no GPU and no ADE20K.
# Expect: not known.
_base_ = ['_base_/upernet_ade20k.py']
model = dict(backbone=dict(arch='RepVGG-B1g2', init_cfg=dict(type='Pretrained', checkpoint='repvgg://RepVGG-B1g2')))
