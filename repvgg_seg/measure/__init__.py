"""Floor 1: measuring any callable, and the facts about the machine that belong to a measurement."""
