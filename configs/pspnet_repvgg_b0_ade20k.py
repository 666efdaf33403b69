# 33.2 M parameters, 31.1 M deployed.
_base_ = ['_base_/pspnet_ade20k.py']
model = dict(backbone=dict(arch='RepVGG-B0'))
