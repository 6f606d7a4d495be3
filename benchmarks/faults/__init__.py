"""`twinrl bench faults` kills servers and actors under load and counts what is lost and what comes twice."""
