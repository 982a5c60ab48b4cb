"""The CNI plugin: runs the chain of services over one connection, and decides nothing.

Interpreter start is most of what a call costs, so these modules import nothing but each other and modules that are
compiled into the interpreter. The build (scripts/build_shim.py) packs them into one file.
"""
