"""`muslin node`: nodes as the services know them."""
