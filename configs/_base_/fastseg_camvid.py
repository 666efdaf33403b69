# CamVid with the light head.
_base_ = [
    'models/fastseg_repvgg.py',
    'datasets/camvid.py',
    'schedules/adamw_long.py',
    'runtime.py',
]
train_dataloader = dict(batch_size=8)
model = dict(
    data_preprocessor=dict(size=(256, 320)),
    backbone=dict(arch='RepVGG-A0'),
    decode_head=dict(num_classes=11),
    auxiliary_head=dict(num_classes=11),
)
default_hooks = dict(checkpoint=dict(interval=1000))
# Validation and checkpoints use averaged weights, with the averaged statistics of their batch norms: the average of
# about the last tenth of the training (gamma), and of at most 1,000 iterations (momentum).
custom_hooks = [
    dict(type='ChannelsLastHook'),
    dict(type='EMAHook', ema_type='MomentumAnnealingEMA', momentum=0.001, gamma=10, update_buffers=True),
]
