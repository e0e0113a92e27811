"""``python -m quantpipe`` and the console script."""

from quantpipe.cli.command import main

__all__ = ["main"]

if __name__ == "__main__":
    main()
