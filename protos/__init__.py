"""The contract every part of TwinRL speaks: field layout, wire messages and codec, settings, errors, files on disk."""
