"""What commands and benchmarks do with a config, as functions: read it, check its data, evaluate, convert, pretrain."""
