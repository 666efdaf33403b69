# 158.8 M parameters, 144.4 M deployed.
_base_ = ['_base_/pspnet_ade20k.py']
model = dict(backbone=dict(arch='RepVGG-D2se'))
