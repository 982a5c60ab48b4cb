"""The soak: random attachments through real services while they and their store are killed, frozen and cut off.

    python -m tests.soak [--seconds N] [--seed N] [--members N] [--history FILE]

It prints what was made, which faults were injected and what was violated, and exits with 1 if anything was.
"""
