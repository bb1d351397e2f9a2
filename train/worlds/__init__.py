"""Worlds to record: simulators that are proper Gymnasium environments, each in a folder of its own.

Importing this package lets every world here prepare what must come first: each registers its Gymnasium id
(``gymnasium.make("train.worlds:NAME-v0")``), and one that draws with MuJoCo chooses how that is done without a display.
No simulator is imported.
"""

import importlib
import pkgutil

for _found in pkgutil.iter_modules(__path__):
    if _found.ispkg:
        importlib.import_module(f"{__name__}.{_found.name}")
