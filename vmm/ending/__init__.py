"""How a guest ends, and how that is found out."""
