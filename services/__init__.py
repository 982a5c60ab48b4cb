"""The services: each a folder with a pure core, a store and a server. They meet only in protos."""
