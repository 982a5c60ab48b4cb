"""Upkeep: what keeps the account of addresses true after crashes, lost messages and damage."""
