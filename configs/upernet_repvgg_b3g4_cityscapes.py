# 126.7 M parameters, 116.8 M deployed.
_base_ = ['_base_/upernet_cityscapes.py']
model = dict(backbone=dict(arch='RepVGG-B3g4'))
