"""The driver doctor."""
