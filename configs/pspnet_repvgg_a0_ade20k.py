# 26.3 M parameters, 25.1 M deployed.
_base_ = ['_base_/pspnet_ade20k.py']
model = dict(backbone=dict(arch='RepVGG-A0'))
