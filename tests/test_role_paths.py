"""What each role does all day, done with the files that `twinrl certificates` gives it: over TLS, as its own user."""
