# Cross-entropy and the Dice loss, which counts each class alike, however few its pixels are.
#     _base_ = ['fastseg_repvgg_a0_folder.py', '_base_/losses/dice.py']
#     model = _base_.dice
dice = dict(
    decode_head=dict(
        loss_decode=[
            dict(type='CrossEntropyLoss', loss_name='loss_ce', use_sigmoid=False, loss_weight=1.0),
            dict(type='DiceLoss', loss_name='loss_dice', use_sigmoid=False, loss_weight=1.0),
        ]
    )
)
