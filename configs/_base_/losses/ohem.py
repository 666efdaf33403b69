# Online hard example mining: of each image only the pixels train whose class has a low probability, at least min_kept.
#     _base_ = ['fastseg_repvgg_a0_folder.py', '_base_/losses/ohem.py']
#     model = _base_.ohem
ohem = dict(decode_head=dict(sampler=dict(type='OHEMPixelSampler', thresh=0.7, min_kept=10000)))
