# 109.6 M parameters, 99.6 M deployed.
_base_ = ['_base_/pspnet_ade20k.py']
model = dict(backbone=dict(arch='RepVGG-B3g4'))
