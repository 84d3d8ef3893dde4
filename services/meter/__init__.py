"""The meter: bytes that each pod of a node sent and received, read anew whenever its page is."""
