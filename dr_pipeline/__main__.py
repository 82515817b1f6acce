"""`python -m dr_pipeline`, which is what the job files' first line calls, and the console script."""

from typing import NoReturn

from dr_pipeline.cli import main
from dr_pipeline.cli.exit import end_with


def run() -> NoReturn:
    """Run the command that this process was started with, and end it."""
    end_with(main)


if __name__ == "__main__":
    run()
