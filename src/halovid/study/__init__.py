"""Studies: run every combination of method, setting and seed through the ordinary stages, and compare the results."""
