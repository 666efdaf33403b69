"""The comparisons of `tools/benchmark.py` about ImageNet classifiers and their data, one module each."""
