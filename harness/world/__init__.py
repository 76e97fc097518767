"""The embedded world: seeded furnished rooms, their videos, and questions with exact answers."""
