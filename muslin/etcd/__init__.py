"""The store: etcd behind one small asynchronous API."""
