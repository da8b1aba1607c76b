"""`python -m halovid`."""

from halovid.cli.main import main

main()
