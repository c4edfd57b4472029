"""Methods by seeds by streams: which runs a comparison takes, and the tables of what they found."""
