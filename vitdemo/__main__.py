"""`python -m vitdemo`."""

import sys

from vitdemo.cli import main

sys.exit(main())
