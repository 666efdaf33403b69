"""Floor 2: data sets on disk, looked at and converted; nothing here needs torch or OpenMMLab to look at a file."""
