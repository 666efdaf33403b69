"""ImageNet data and the objective of pretraining, on torch and torchvision alone."""
