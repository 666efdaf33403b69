# python tools/pretrain_imagenet.py --recipe paper-120e --arch RepVGG-A0 --amp
# Cost: 120 epochs of 1.28 million images of 224x224; not run here, where there is no ImageNet.
# Expect: top-1 72.41 for RepVGG-A0, as the authors publish.
# The paper's recipe for all but the largest networks: SGD, lr 0.1 with a cosine to 0, weight decay 1e-4, crop and flip.
_base_ = ['../_base_/imagenet.py']
