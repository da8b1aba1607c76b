"""Training of a generator: the policy, and what watches it."""
