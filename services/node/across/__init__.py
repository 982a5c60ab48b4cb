"""Between nodes: routes to the blocks of others, VXLAN where there is no link to route over, and what guards both."""
