"""`twinrl bench policy` measures forward passes of the policy."""
