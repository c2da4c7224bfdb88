"""The network: one technique a file, and the stack that orders them."""
