"""Netlink, spoken directly: messages are built with struct and answers parsed, no library and no forked program."""
