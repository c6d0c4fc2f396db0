"""Entry of the Space, and of `make run`: the same as `vitdemo app`."""

import sys

from vitdemo.cli import main

if __name__ == "__main__":
    sys.exit(main(["app"]))
