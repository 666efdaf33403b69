"""What can be measured, one module a comparison, and what all of them measure with."""
