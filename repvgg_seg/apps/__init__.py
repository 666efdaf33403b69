"""The commands, one module each: their arguments, their work, and what they print."""
