# 175.8 M parameters, 161.4 M deployed.
_base_ = ['_base_/upernet_cityscapes.py']
model = dict(backbone=dict(arch='RepVGG-D2se'))
