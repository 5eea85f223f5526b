"""``vmm shell``: a machine at the prompt of IPython."""
