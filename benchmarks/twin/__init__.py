"""`twinrl bench twin` measures twin steps, rendering and fleets of twin actors."""
