"""`python -m hypersd` is the command `hypersd`."""

from hypersd.cli import main

main()
