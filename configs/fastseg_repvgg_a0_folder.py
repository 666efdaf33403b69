# python tools/train.py configs/fastseg_repvgg_a0_folder.py --amp
# For images of your own: change data_root and what else you like in a copy. See docs/data.md.
# The heads tell apart as many classes as classes.json names.
# Cost: 1,500 iterations of 4 crops of 512x512.
# Expect: what your images give.
_base_ = [
    '_base_/models/fastseg_repvgg.py',
    '_base_/datasets/folder.py',
    '_base_/schedules/adamw_short.py',
    '_base_/runtime.py',
]
data_root = 'data/mine'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = dict(dataset=dict(data_root=data_root))
test_dataloader = val_dataloader
model = dict(
    data_preprocessor=dict(size=(512, 512)),
    backbone=dict(arch='RepVGG-A0', init_cfg=dict(type='Pretrained', checkpoint='repvgg://')),
)
default_hooks = dict(checkpoint=dict(interval=500))
