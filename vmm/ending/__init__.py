"""The ways a guest can end, and the signs that tell them apart."""
