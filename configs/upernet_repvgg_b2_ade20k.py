# 131.6 M parameters, 121.4 M deployed.
_base_ = ['_base_/upernet_ade20k.py']
model = dict(backbone=dict(arch='RepVGG-B2'))
