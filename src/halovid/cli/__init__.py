"""The `halovid` command line."""
