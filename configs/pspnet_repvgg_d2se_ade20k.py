# python tools/train.py configs/pspnet_repvgg_d2se_ade20k.py
# Cost: 160k iterations of 16 crops of 512x512; 158.8 M parameters, 144.4 M deployed.
# Not run here: there was no GPU and no ADE20K.
# Expect: not known.
_base_ = ['_base_/pspnet_ade20k.py']
model = dict(backbone=dict(arch='RepVGG-D2se', init_cfg=dict(type='Pretrained', checkpoint='repvgg://RepVGG-D2se')))
