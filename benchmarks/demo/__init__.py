"""This room measures the demo by stage: CPU time of all its processes, and wall time, of one commit or several."""
