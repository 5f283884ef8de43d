"""The annotation study on disk: what was drawn, by whom, when, and that none of it gets lost."""
