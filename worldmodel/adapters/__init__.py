"""A world model as the environments that others train with. Each adapter needs its own package."""
