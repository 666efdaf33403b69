# python tools/train.py configs/upernet_repvggplus_l2pse_cityscapes.py
# Cost: 80k iterations of 8 crops of 512x1024; 182.6 M parameters, 168.2 M deployed.
# Only one training step was run here: there was no GPU and no Cityscapes.
# Weights: a browser download, see pretrained/README.md.
# Expect: not known.
_base_ = ['_base_/upernet_cityscapes.py']
model = dict(
    backbone=dict(
        type='RepVGGplus',
        arch='RepVGGplus-L2pse',
        init_cfg=dict(type='Pretrained', checkpoint='repvgg://RepVGGplus-L2pse'),
    )
)
