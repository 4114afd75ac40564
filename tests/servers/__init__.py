"""Real servers for the tests: on free loopback ports, in temporary folders, ended by their process ids."""
