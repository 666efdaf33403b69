# python tools/train.py configs/fastseg_repvgg_a0_camvid.py --amp
# Cost: 12,000 iterations of 8 crops of 256x320, 262 epochs.
# Expect: not run to its end yet; fastseg_repvgg_a0_half_camvid.py is the way for CPUs.
_base_ = ['_base_/fastseg_camvid.py']
