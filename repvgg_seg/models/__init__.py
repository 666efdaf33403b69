"""The networks and the algebra of their re-parameterization, on torch alone."""
