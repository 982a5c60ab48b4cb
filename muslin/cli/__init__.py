"""The command line: runs Muslin on one machine, plays kubelet, changes and explains policy."""
