"""The adapted layer: its arithmetic, what it learns along a stream, and where in a backbone it goes.

Nothing in this package knows Avalanche.
"""
