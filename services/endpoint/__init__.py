"""muslin-endpoint: what is attached to the network, where, with which labels."""
