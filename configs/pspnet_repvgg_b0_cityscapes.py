# 33.1 M parameters, 31.0 M deployed.
_base_ = ['_base_/pspnet_cityscapes.py']
model = dict(backbone=dict(arch='RepVGG-B0'))
