"""Models behind OpenAI-compatible servers: bounded calls, budgets, answers that are kept; below judges and rewards."""
