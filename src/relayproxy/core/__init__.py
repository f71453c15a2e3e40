"""Floor 2: what a mail proxy is, without sockets, files or databases of its own."""
