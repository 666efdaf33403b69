# 13.8 M parameters, 12.3 M deployed.
_base_ = ['_base_/fastseg_cityscapes.py']
model = dict(backbone=dict(arch='RepVGG-A1'))
