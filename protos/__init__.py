"""This package is the contract that every part of TwinRL shares: data, their bytes, settings, errors, files.

    schema (observation, action) ─► episode (Segment, Episode) ─► codec, images (bytes)     space (configurations)
    settings (JSON) ─► process (how a process starts) ─► status (what it does)              files, errors

It imports nothing of TwinRL. Its modules are imported by name.
"""
