"""Training of a generator. To be read from `loop` down: its parts are the policy, the objectives, pairs and batches."""
