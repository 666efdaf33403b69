# 165.5 M parameters, 151.1 M deployed.
# The weights are a browser download: see pretrained/README.md.
_base_ = ['_base_/pspnet_cityscapes.py']
model = dict(backbone=dict(type='RepVGGplus', arch='RepVGGplus-L2pse'))
