"""From a trained network to the one that is deployed, with proof that it is the same function."""
