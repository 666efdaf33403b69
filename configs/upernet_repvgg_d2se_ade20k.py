# 175.9 M parameters, 161.5 M deployed.
_base_ = ['_base_/upernet_ade20k.py']
model = dict(backbone=dict(arch='RepVGG-D2se'))
