# python tools/train.py configs/upernet_repvgg_a1_ade20k.py
# Cost: 160k iterations of 16 crops of 512x512; 48.2 M parameters, 46.3 M deployed.
# Not run here: there was no GPU and no ADE20K.
# Expect: not known.
_base_ = ['_base_/upernet_ade20k.py']
model = dict(backbone=dict(arch='RepVGG-A1', init_cfg=dict(type='Pretrained', checkpoint='repvgg://RepVGG-A1')))
