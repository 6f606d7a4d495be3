"""The contract every part of TwinRL speaks: field layout, wire messages and their codec, settings, errors."""
