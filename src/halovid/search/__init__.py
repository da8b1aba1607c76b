"""Better clips from the same generator, found with the rewards alone: best-of-N and repair."""
