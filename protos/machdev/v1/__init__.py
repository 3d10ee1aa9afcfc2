"""machdev: the protocol of the virtual Ethernet, generated from the .proto files beside it."""
