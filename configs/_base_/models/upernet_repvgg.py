# UPerNet on the undilated trunk, all four stages at strides 4, 8, 16, 32.
_base_ = ['segmentor.py']
model = dict(decode_head=dict(type='FoldedUPerHead', in_index=[0, 1, 2, 3]))
