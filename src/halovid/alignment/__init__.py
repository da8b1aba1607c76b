"""Preference pairs, the losses and the policy that learns from them."""
