"""The node daemon: wires pods and enforces their policy in the kernel."""
