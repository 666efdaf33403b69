"""Floor 1: the networks and the algebra of their re-parameterization, on torch alone."""
