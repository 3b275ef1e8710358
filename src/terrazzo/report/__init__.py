"""What a run leaves for people: one HTML page, and the same numbers as tables and pictures."""
