"""Pixels, text, actions and scene state to ids and back. Knows no transformer."""
