"""What an application uses to run an exported file: no torch but for .pt2 files, and nothing of OpenMMLab."""
