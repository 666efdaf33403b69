"""The page about one training: what is read from its folder, the figures and pictures, and the template."""
