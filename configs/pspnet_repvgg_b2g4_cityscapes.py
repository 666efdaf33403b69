# 87.2 M parameters, 79.7 M deployed.
_base_ = ['_base_/pspnet_cityscapes.py']
model = dict(backbone=dict(arch='RepVGG-B2g4'))
