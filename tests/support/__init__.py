"""What tests share: real parts on loopback, made-up messages, waits."""
