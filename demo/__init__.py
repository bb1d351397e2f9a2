"""The page on which people play a world, and the socket that feeds it. ``python -m demo`` opens it."""

import os

# Read when gradio is first imported: the page needs nothing from the internet and reports nothing to it.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
