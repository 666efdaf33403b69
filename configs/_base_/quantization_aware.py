# Training with the rounding of int8, from a float checkpoint: see docs/quantization.md. A config with it, beside the
# one of the float training:
#     _base_ = ['upernet_repvgg_a0_camvid.py', '_base_/quantization_aware.py']
#     model = _base_.quantized_model
#     optim_wrapper = _base_.quantized_optim_wrapper
#     param_scheduler = _base_.quantized_param_scheduler
#     train_cfg = _base_.quantized_train_cfg
#     load_from = 'work_dirs/upernet_repvgg_a0_camvid/iter_1500.pth'
# Statistics of batch norms stay as they are from the first step: the ranges of the inputs settle in some hundred steps.
# 7 in place of 8 bits for kernels that no CPU adds up to an overflow; CPUs without VNNI can, with 8.
quantized_model = dict(quantized=8)
quantized_optim_wrapper = dict(
    _delete_=True,
    type='OptimWrapper',
    constructor='RepVGGOptimWrapperConstructor',
    optimizer=dict(type='AdamW', lr=1e-4, weight_decay=0.01),
    clip_grad=dict(max_norm=10),
)
quantized_param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, begin=0, end=50, by_epoch=False),
    dict(type='PolyLR', eta_min=0, power=0.9, begin=50, end=1000, by_epoch=False),
]
quantized_train_cfg = dict(_delete_=True, type='IterBasedTrainLoop', max_iters=1000, val_interval=500)
