# python tools/train.py configs/pspnet_repvgg_a1_ade20k.py
# Cost: 160k iterations of 16 crops of 512x512; 31.5 M parameters, 29.5 M deployed.
# Only one training step was run here: there was no GPU and no ADE20K.
# Expect: not known.
_base_ = ['_base_/pspnet_ade20k.py']
model = dict(backbone=dict(arch='RepVGG-A1', init_cfg=dict(type='Pretrained', checkpoint='repvgg://RepVGG-A1')))
