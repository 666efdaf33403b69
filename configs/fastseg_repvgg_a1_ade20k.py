# 13.9 M parameters, 12.3 M deployed.
_base_ = ['_base_/fastseg_ade20k.py']
model = dict(backbone=dict(arch='RepVGG-A1'))
