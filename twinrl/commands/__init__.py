"""The commands of `twinrl`, a module each with `main(arguments) -> exit code`; imported when they are called."""
