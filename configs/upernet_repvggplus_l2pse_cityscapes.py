# 182.6 M parameters, 168.2 M deployed.
# The weights are a browser download: see pretrained/README.md.
_base_ = ['_base_/upernet_cityscapes.py']
model = dict(backbone=dict(type='RepVGGplus', arch='RepVGGplus-L2pse'))
