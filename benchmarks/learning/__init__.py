"""`twinrl bench learning` trains over seeds and measures success."""
