"""The report of runs: one page that opens anywhere, and a card for the model that a run left."""
