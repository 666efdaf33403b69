# python tools/train.py configs/pspnet_repvggplus_l2pse_ade20k.py
# Cost: 160k iterations of 16 crops of 512x512; 165.6 M parameters, 151.1 M deployed.
# Not run here: there was no GPU and no ADE20K.
# Weights: a browser download, see pretrained/README.md.
# Expect: not known.
_base_ = ['_base_/pspnet_ade20k.py']
model = dict(
    backbone=dict(
        type='RepVGGplus',
        arch='RepVGGplus-L2pse',
        init_cfg=dict(type='Pretrained', checkpoint='repvgg://RepVGGplus-L2pse'),
    )
)
