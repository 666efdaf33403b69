# 79.7 M parameters, 72.9 M deployed.
_base_ = ['_base_/pspnet_ade20k.py']
model = dict(backbone=dict(arch='RepVGG-B1'))
