"""`python -m train fit --config …`"""

import signal
import sys


def main(arguments: list[str] | None = None) -> None:
    """Trains as the arguments say; by default those of the command line."""
    from lightning.pytorch.utilities.exceptions import SIGTERMException  # importing Lightning takes seconds

    from train.running.cli import main as run
    from worldmodel.threads import train_quickly

    train_quickly()
    try:
        run(arguments)
    except ValueError as error:
        sys.exit(f"error: {error}")
    except SIGTERMException:
        sys.exit(128 + signal.SIGTERM)  # by itself it exits with 0, as if all were done


if __name__ == "__main__":
    main()
