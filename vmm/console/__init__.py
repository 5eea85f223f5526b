"""The guest's console on the host: what it prints, and the terminal of the user."""
