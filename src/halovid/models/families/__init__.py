"""One file per family: its FAMILY is a `halovid.models.family.Family`."""
