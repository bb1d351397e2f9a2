"""A page to play on: the only package that imports Gradio."""
