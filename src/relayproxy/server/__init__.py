"""Floor 3: sockets that clients connect to. aiosmtpd's class in front, our command loop and data reader in it."""
