"""Mathematics on tensors and arrays: the patch grid, noise, losses, pairing, statistics."""
