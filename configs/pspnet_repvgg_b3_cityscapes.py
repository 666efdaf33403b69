# 148.8 M parameters, 134.9 M deployed.
_base_ = ['_base_/pspnet_cityscapes.py']
model = dict(backbone=dict(arch='RepVGG-B3'))
