# What every run shares: registration of our parts, logging, checkpoints, visualisation.
custom_imports = dict(imports=['repvgg_seg.openmmlab'])
default_scope = 'mmseg'
env_cfg = dict(
    cudnn_benchmark=True,
    mp_cfg=dict(mp_start_method='fork', opencv_num_threads=0),
    dist_cfg=dict(backend='nccl'),
)
sync_bn = 'torch'  # batch norms are synchronised when, and only when, several GPUs train together
default_hooks = dict(
    timer=dict(type='IterTimerHook'),
    logger=dict(type='LoggerHook', interval=50, log_metric_by_epoch=False),
    param_scheduler=dict(type='ParamSchedulerHook'),
    checkpoint=dict(type='CheckpointHook', by_epoch=False, interval=8000, max_keep_ckpts=3, save_best='mIoU'),
    sampler_seed=dict(type='DistSamplerSeedHook'),
)
custom_hooks = [dict(type='ChannelsLastHook')]
visualizer = dict(type='SegLocalVisualizer', vis_backends=[dict(type='LocalVisBackend')], name='visualizer', alpha=0.6)
log_processor = dict(by_epoch=False)
log_level = 'INFO'
load_from = None
max_bad_share = 0.01  # of the training samples may be unreadable: they are skipped and listed in the work directory
max_skipped_steps = 0  # of the run's steps whose loss or gradients are not finite; one more stops it
resume = False
tta_model = dict(type='SegTTAModel')
