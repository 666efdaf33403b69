# 104.4 M parameters, 96.9 M deployed.
_base_ = ['_base_/upernet_ade20k.py']
model = dict(backbone=dict(arch='RepVGG-B2g4'))
