"""`worldmodel COMMAND …`: one name for all that can be done. `worldmodel COMMAND --help` says more of each.

Every command is a module that runs by itself too, as `python -m MODULE`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from difflib import get_close_matches
from importlib import import_module


@dataclass(frozen=True, kw_only=True)
class Command:
    """module: whose ``main`` takes the arguments. extra: what it needs installed. does: what it is for."""

    module: str
    extra: str
    does: str


COMMANDS = {
    "play": Command(module="demo.__main__", extra="demo", does="open a world in the browser"),
    "make": Command(module="train.make", extra="train", does="make a world of a game, of clips or of a dataset"),
    "generate": Command(module="worldmodel.generate", extra="demo", does="make a film out of a world"),
    "record": Command(module="train.record", extra="train", does="record episodes of an environment"),
    "train": Command(module="train.__main__", extra="train", does="train one part, by LightningCLI"),
    "imagine": Command(module="train.imagine", extra="train,sb3", does="train a policy inside a world"),
    "evaluate": Command(module="train.evaluate", extra="train", does="measure how good a world is"),
    "evaluate-video": Command(module="train.evaluate_video", extra="train,video", does="measure a folder of videos"),
    "bench": Command(module="worldmodel.bench", extra="bench", does="measure how fast a world is here"),
    "doctor": Command(module="worldmodel.doctor", extra="demo", does="say what this machine has, and what is broken"),
}


def usage() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {command.does}" for name, command in COMMANDS.items()]
    return "\n".join(["usage: worldmodel COMMAND [options]", "", *lines, "", "worldmodel COMMAND --help says more."])


def main(arguments: list[str] | None = None) -> int:
    """Exit status of the command; 2 for one that is not known."""
    given = sys.argv[1:] if arguments is None else arguments
    if not given or given[0] in ("-h", "--help", "help"):
        print(usage())
        return 0 if given else 2
    name, *rest = given
    if name not in COMMANDS:
        close = get_close_matches(name, COMMANDS, 1)
        offer = f"did you mean {close[0]}?" if close else "worldmodel --help lists them"
        print(f"error: there is no command {name!r}: {offer}", file=sys.stderr)
        return 2
    command = COMMANDS[name]
    try:
        return import_module(command.module).main(rest) or 0
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("worldmodel", "tokenizer", "train", "demo"):
            raise
        mend = f"pip install 'worldmodel-stream[{command.extra}]'"
        print(f"error: {name} needs the package {error.name}: {mend}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
