"""How fast, how exact, in how much memory, and on which machine."""
