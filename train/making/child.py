"""Runs a command as a stage: ``python -m train.making.child MODULE [ARGUMENT …]``, as ``python -m MODULE …`` would.

It ends with whoever started it, so that a killed run leaves nobody behind who still writes into its folder.
"""

from __future__ import annotations

import os
import runpy
import sys
import threading
import time


def end_with_parent(seconds: float = 0.2) -> None:
    """Ends this process soon after its parent has ended."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(seconds)
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    end_with_parent()
    from worldmodel.threads import train_quickly  # importing torch takes seconds, in which the parent may end

    train_quickly()
    module = sys.argv[1]
    sys.argv = [f"python -m {module}", *sys.argv[2:]]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
