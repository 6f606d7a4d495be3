"""`twinrl bench learner` measures the time and memory of updates."""
