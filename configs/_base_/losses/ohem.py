# Online hard example mining: of each batch only the pixels train whose class has a low probability, at least min_kept.
#     _base_ = ['fastseg_repvgg_a0_folder.py', '_base_/losses/ohem.py']
#     model = _base_.ohem
ohem = dict(
    decode_head=dict(
        loss_decode=dict(_delete_=True, type='OhemCrossEntropy', thres=0.7, min_kept=100000, loss_weight=1.0)
    )
)
