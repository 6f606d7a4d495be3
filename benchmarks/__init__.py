"""This package holds the benchmarks of TwinRL. It is outside the wheel. `twinrl bench NAME` runs one."""
