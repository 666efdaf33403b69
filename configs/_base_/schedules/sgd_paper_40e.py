# The paper's schedule, section 4.3: SGD 0.01 with polynomial decay of power 0.9 to 0, weight decay 1e-4, batches of 16,
# 40 epochs; the learning rate falls with each iteration. Momentum 0.9 as in the PSPNet that it builds on.
optim_wrapper = dict(
    type='OptimWrapper',
    constructor='RepVGGOptimWrapperConstructor',
    optimizer=dict(type='SGD', lr=0.01, momentum=0.9, weight_decay=0.0001),
)
auto_scale_lr = dict(enable=False, base_batch_size=16)
param_scheduler = [
    dict(type='PolyLR', eta_min=0, power=0.9, begin=0, end=40, by_epoch=True, convert_to_iter_based=True)
]
train_cfg = dict(type='EpochBasedTrainLoop', max_epochs=40, val_interval=5)
val_cfg = dict(type='ValLoop')
test_cfg = dict(type='TestLoop')
