"""What every service needs to know of CNI: the configuration, arguments, results and names. Pure: no I/O."""
