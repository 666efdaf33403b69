# The authors' custom L2 in place of the ordinary decay of the blocks' kernels (see repvgg_seg/models/custom_l2.py), of
# the strength of schedules/sgd_80k.py and sgd_160k.py. A config with it, beside any other of these configs:
#     _base_ = ['pspnet_repvgg_b2_cityscapes.py', '_base_/custom_l2.py']
#     model = _base_.custom_l2
custom_l2 = dict(custom_l2=0.0005)
