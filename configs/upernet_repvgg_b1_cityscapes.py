# 96.6 M parameters, 89.8 M deployed.
_base_ = ['_base_/upernet_cityscapes.py']
model = dict(backbone=dict(arch='RepVGG-B1'))
