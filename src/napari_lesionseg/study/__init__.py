"""The annotation study on disk: who drew what and when, in files that survive a crash."""
