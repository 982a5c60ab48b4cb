"""muslin-ipam: addresses for attachments, given once, kept until freed, never to two."""
