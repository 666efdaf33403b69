"""Labels of other tools, made into the folder layout of docs/data.md."""
