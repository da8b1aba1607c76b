"""The work of the commands that are no stage: import, export, score --clips, select, merge."""
