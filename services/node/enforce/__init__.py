"""Policy in the kernel: what a node's program is, and the nf_tables transactions that make it so. Pure."""
