"""`muslin cluster`: what runs in a cluster to have Muslin there: its authority, and an agent on each node."""
