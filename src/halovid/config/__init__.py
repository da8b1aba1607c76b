"""Configuration: what a recipe says, section by section, and how it is read."""
