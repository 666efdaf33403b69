# As the config of RepVGG-A0, with another backbone; not yet run to its end.
_base_ = ['fastseg_repvgg_a0_folder.py']
model = dict(backbone=dict(arch='RepVGG-A1'))
