# 8.8 M parameters, 7.8 M deployed.
_base_ = ['_base_/fastseg_cityscapes.py']
model = dict(backbone=dict(arch='RepVGG-A0'))
