"""Data sets on disk, looked at and converted, without torch and OpenMMLab."""
