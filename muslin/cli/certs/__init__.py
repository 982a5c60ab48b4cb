"""`muslin certs`: a certificate authority of our own and what it signs, for every process that speaks TCP."""
