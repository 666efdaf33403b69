# Your own images: data_root/classes.json, data_root/{images,masks}/{train,val}; see docs/data.md.
# For splits that are lists: data_prefix=dict(img_path='images', seg_map_path='masks') and ann_file='train.txt'.
_base_ = ['ade20k.py']  # whose pipelines bring images of any size to a short side of 512 pixels
dataset_type = 'FolderDataset'
data_root = 'data/mine'
train_dataloader = dict(
    batch_size=4,
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='images/train', seg_map_path='masks/train'),
        reduce_zero_label=False,
    ),
)
val_dataloader = dict(
    dataset=dict(
        type=dataset_type,
        data_root=data_root,
        data_prefix=dict(img_path='images/val', seg_map_path='masks/val'),
        reduce_zero_label=False,
    ),
)
test_dataloader = val_dataloader
