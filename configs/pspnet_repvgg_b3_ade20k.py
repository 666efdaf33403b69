# python tools/train.py configs/pspnet_repvgg_b3_ade20k.py
# Cost: 160k iterations of 16 crops of 512x512; 148.9 M parameters, 135.0 M deployed.
# Only one training step was run here: there was no GPU and no ADE20K.
# Expect: not known.
_base_ = ['_base_/pspnet_ade20k.py']
model = dict(backbone=dict(arch='RepVGG-B3', init_cfg=dict(type='Pretrained', checkpoint='repvgg://RepVGG-B3')))
