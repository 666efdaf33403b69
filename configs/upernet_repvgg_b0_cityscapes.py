# 49.9 M parameters, 47.8 M deployed.
_base_ = ['_base_/upernet_cityscapes.py']
model = dict(backbone=dict(arch='RepVGG-B0'))
