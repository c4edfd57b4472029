"""Command line, recipes and measurements."""
