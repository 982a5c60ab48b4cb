"""`muslin endpoint`: what is attached to the network."""
