"""How fast it is, how much memory it takes, and how it compares to the same thing done plainly."""
