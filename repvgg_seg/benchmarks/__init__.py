"""What can be measured: each module with `add_arguments(parser)` and `run(args) -> rows` is a comparison."""
