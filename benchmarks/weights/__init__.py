"""`twinrl bench weights` and `twinrl bench joins` measure how weights reach actors."""
