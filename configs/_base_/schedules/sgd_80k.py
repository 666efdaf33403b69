# mmseg's 80k schedule: SGD 0.01, momentum 0.9, weight decay 5e-4, polynomial decay of power 0.9; batches of 8.
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='RepVGGOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0005),
)
auto_scale_lr = dict(enable=False, base_batch_size=8)
param_scheduler = [dict(type='PolyLR', eta_min=1e-4, power=0.9, begin=0, end=80000, by_epoch=False)]
train_cfg = dict(type='IterBasedTrainLoop', max_iters=80000, val_interval=8000)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
