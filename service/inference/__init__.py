"""Loaded versions and the way of one prediction through them."""
