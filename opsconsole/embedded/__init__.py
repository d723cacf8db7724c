"""PostgreSQL and Valkey from wheels, when no address of either is set."""
