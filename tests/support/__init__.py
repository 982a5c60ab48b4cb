"""What several tests share: servers, namespaces, builders of messages."""
