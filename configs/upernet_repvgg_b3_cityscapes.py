# 166.0 M parameters, 152.1 M deployed.
_base_ = ['_base_/upernet_cityscapes.py']
model = dict(backbone=dict(arch='RepVGG-B3'))
