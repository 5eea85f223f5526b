"""The memory balloon as the host's programs see it: how large it is, and what is free."""
