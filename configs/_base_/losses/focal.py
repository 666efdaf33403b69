# The focal loss: pixels that are classified well count little.
#     _base_ = ['fastseg_repvgg_a0_folder.py', '_base_/losses/focal.py']
#     model = _base_.focal
focal = dict(decode_head=dict(loss_decode=dict(_delete_=True, type='SoftmaxFocalLoss', gamma=2.0, loss_weight=1.0)))
