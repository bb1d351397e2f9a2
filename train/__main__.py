"""`python -m train fit --config …`"""

import sys


def main() -> None:
    from train.running.cli import main as run  # importing Lightning takes seconds
    from worldmodel.threads import keep_memory

    keep_memory()
    try:
        run()
    except ValueError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
