# 109.5 M parameters, 99.6 M deployed.
_base_ = ['_base_/pspnet_cityscapes.py']
model = dict(backbone=dict(arch='RepVGG-B3g4'))
