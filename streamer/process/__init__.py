"""What the server process sets up with the operating system: memory allocation, cores, standard streams."""
