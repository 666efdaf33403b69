# 126.8 M parameters, 116.8 M deployed.
_base_ = ['_base_/upernet_ade20k.py']
model = dict(backbone=dict(arch='RepVGG-B3g4'))
