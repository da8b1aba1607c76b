"""`python -m halovid`."""

from halovid.cli import main

main()
