"""Published test vectors, their sources named in each file."""
