"""The server process and its operating system: memory allocation, cores, standard streams."""
