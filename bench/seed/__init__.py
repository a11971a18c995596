"""A past of any size for a migrated database: ended runs with their logs, and a queue."""
