"""`muslin policy`: why a flow is decided as it is, checks for CI, and where policy is enforced."""
