# Cross-entropy and the Lovasz loss, a bound of the IoU of the classes that a batch holds.
#     _base_ = ['fastseg_repvgg_a0_folder.py', '_base_/losses/lovasz.py']
#     model = _base_.lovasz
lovasz = dict(
    decode_head=dict(
        loss_decode=[
            dict(type='CrossEntropyLoss', loss_name='loss_ce', use_sigmoid=False, loss_weight=1.0),
            dict(type='LovaszLoss', loss_name='loss_lovasz', per_image=False, reduction='none', loss_weight=1.0),
        ]
    )
)
