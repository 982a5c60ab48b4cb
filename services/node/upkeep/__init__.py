"""Keeping what is wired as it is: records, drift, deletions that wait, and what nobody claims any more."""
