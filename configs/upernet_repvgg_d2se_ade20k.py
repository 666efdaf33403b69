# python tools/train.py configs/upernet_repvgg_d2se_ade20k.py
# Cost: 160k iterations of 16 crops of 512x512; 175.9 M parameters, 161.5 M deployed.
# Not run here: there was no GPU and no ADE20K.
# Expect: not known.
_base_ = ['_base_/upernet_ade20k.py']
model = dict(backbone=dict(arch='RepVGG-D2se', init_cfg=dict(type='Pretrained', checkpoint='repvgg://RepVGG-D2se')))
