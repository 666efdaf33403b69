# python tools/train.py configs/pspnet_repvgg_b3g4_ade20k.py
# Cost: 160k iterations of 16 crops of 512x512; 109.6 M parameters, 99.6 M deployed.
# Not run here: there was no GPU and no ADE20K.
# Expect: not known.
_base_ = ['_base_/pspnet_ade20k.py']
model = dict(backbone=dict(arch='RepVGG-B3g4', init_cfg=dict(type='Pretrained', checkpoint='repvgg://RepVGG-B3g4')))
