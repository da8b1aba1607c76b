"""Clip folders and prompt files: reading and writing."""
