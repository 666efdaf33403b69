"""The comparisons of `tools/benchmark.py` that need configs or mmseg's models, one module each."""
