"""The command line, and the run that ties all rooms together."""
