"""Entry of the Space, and of `make run`."""

from vitdemo.pipeline import Pipeline
from vitdemo.ui.app import build, launch_options


def main() -> None:
    pipeline = Pipeline()
    build(pipeline).launch(**launch_options(pipeline))


if __name__ == "__main__":
    main()
