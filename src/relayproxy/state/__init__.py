"""State that workers share: in memory, in SQLite, or in Valkey and Redis. Losing it never loses mail."""
