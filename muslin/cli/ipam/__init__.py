"""`muslin ipam`: the address manager's command line."""
