# 15.6 M parameters, 13.9 M deployed.
_base_ = ['_base_/fastseg_cityscapes.py']
model = dict(backbone=dict(arch='RepVGG-B0'))
