"""nf_tables, spoken directly: expressions, sets, chains and rules as netlink messages, committed all or nothing."""
