"""Methods by seeds by streams: the runs that a comparison takes, and the tables of their results."""
