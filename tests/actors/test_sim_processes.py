"""The twin side as processes: demonstrations, evaluation, and a fleet that survives `kill -9`."""
