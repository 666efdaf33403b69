# python tools/train.py configs/upernet_repvgg_b2g4_ade20k.py
# Cost: 160k iterations of 16 crops of 512x512; 104.4 M parameters, 96.9 M deployed.
# Not run here: there was no GPU and no ADE20K.
# Expect: not known.
_base_ = ['_base_/upernet_ade20k.py']
model = dict(backbone=dict(arch='RepVGG-B2g4', init_cfg=dict(type='Pretrained', checkpoint='repvgg://RepVGG-B2g4')))
