"""Workers for systems that do the same work, each run by the interpreter of an environment of its own.

Nothing here imports the rest of TwinRL: the modules know numpy, the standard library and one peer. They are run as
`python -m peers.<name>` with benchmarks on the path, which is why they import each other relatively.
"""
