"""`python -m graphmill` is the command `graphmill`."""

from .cli.main import main

if __name__ == "__main__":
    main()
