"""Studies: methods x settings x seeds through the ordinary stages, and what they found."""
