# 8.8 M parameters, 7.9 M deployed.
_base_ = ['_base_/fastseg_ade20k.py']
model = dict(backbone=dict(arch='RepVGG-A0'))
