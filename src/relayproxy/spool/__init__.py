"""Floor 3: the durable queue. A store behind a protocol, the hop that fills it, the scheduler that empties it."""
