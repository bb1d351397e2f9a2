"""One kind of scene: bodies on a floor, seen from above or by an orbiting camera; built where a schema has a view."""
