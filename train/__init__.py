"""Recording, training and measuring: the only package that imports Lightning, and that lazily."""
