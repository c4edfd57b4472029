"""Labelled images, in memory or in files, and what happens to them before a model sees them."""
