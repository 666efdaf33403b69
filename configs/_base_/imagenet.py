# What all ImageNet recipes share. 256 images a step, however many processes divide them; another batch, set with
# train_dataloader.batch_size (of one process) or optim_wrapper.accumulative_counts, scales the learning rate.
custom_imports = dict(imports=['repvgg_seg.openmmlab'])
default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True, mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0), dist_cfg=dict(backend='nccl')
)
model = dict(type='PretrainingModel', arch='RepVGG-A0', num_classes=1000)
dataset = dict(type='ImageNet', data_root='data/imagenet')
train_dataloader = dict(
    num_workers=8,
    sampler=dict(type='GlobalBatchSampler'),
    collate_fn=dict(type='default_collate'),
    dataset=dict(split='train', resolution=224, **dataset),
)
val_dataloader = dict(
    batch_size=128,
    num_workers=8,
    sampler=dict(type='DefaultSampler', shuffle=False),
    collate_fn=dict(type='default_collate'),
    dataset=dict(split='val', resolution=224, **dataset),
)
val_evaluator = dict(type='TopK')
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='RepVGGOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.1, momentum=0.9, weight_decay=1e-4),
)
auto_scale_lr = dict(enable=True, base_batch_size=256)
# The last schedule ends with the training, so that another max_epochs needs no other change.
param_scheduler = [dict(type='CosineAnnealingLR', eta_min=0, by_epoch=True, convert_to_iter_based=True)]
train_cfg = dict(type='ResumableEpochLoop', max_epochs=120)
val_cfg = dict(type='ValLoop')
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=1000, max_keep_ckpts=3),
)
# The average is no part of the authors' recipes, and leaves no trace in the training.
custom_hooks = [
    dict(type='ChannelsLastHook'),
    dict(type='AveragedWeightsHook', ema_type='MomentumAnnealingEMA', momentum=1e-4, gamma=100, update_buffers=True),
]
visualizer = dict(type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
log_processor = dict(by_epoch=True)
log_level = 'INFO'
load_from = None
max_skipped_steps = 0  # of the run's steps whose loss or gradients are not finite; one more stops it
resume = False
randomness = dict(seed=0)
