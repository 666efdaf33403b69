# 96.7 M parameters, 89.9 M deployed.
_base_ = ['_base_/upernet_ade20k.py']
model = dict(backbone=dict(arch='RepVGG-B1'))
