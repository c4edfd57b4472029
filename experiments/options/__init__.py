"""The command line: how options are read and shown, and which options a run has."""
