"""Floor 1: the algorithms of mail authentication, pure."""
