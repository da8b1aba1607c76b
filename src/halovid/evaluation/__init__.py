"""Measures of clips and of agreement, and how they are compared."""
