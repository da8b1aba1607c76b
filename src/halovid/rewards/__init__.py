"""Reward models: one network with a video head and a patch head, and how it scores clips."""
