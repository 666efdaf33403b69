# 79.6 M parameters, 72.9 M deployed.
_base_ = ['_base_/pspnet_cityscapes.py']
model = dict(backbone=dict(arch='RepVGG-B1'))
