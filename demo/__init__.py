"""The page on which people play a world, and the socket that feeds it. ``python -m demo`` opens it."""

import os

# Read when gradio is first imported: the page needs nothing from the internet and reports nothing to it.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")
os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
# Before torch is imported: threads that wait for work by spinning take the core that the page's server needs.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
