"""Classifiers on the features: one that grows and is trained, and those solved in closed form.

Nothing in this package knows Avalanche.
"""
