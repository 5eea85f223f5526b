"""The guest's console on the host, and the terminal of the user."""
