# python tools/train.py configs/upernet_repvgg_b3_ade20k.py
# Cost: 160k iterations of 16 crops of 512x512; 166.1 M parameters, 152.2 M deployed.
# Not run here: there was no GPU and no ADE20K.
# Expect: not known.
_base_ = ['_base_/upernet_ade20k.py']
model = dict(backbone=dict(arch='RepVGG-B3', init_cfg=dict(type='Pretrained', checkpoint='repvgg://RepVGG-B3')))
