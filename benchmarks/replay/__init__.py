"""`twinrl bench replay` measures ingest and delivered batches of the replay."""
