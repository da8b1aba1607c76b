"""Renders the report page."""
