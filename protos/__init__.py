"""The contract every part of TwinRL speaks: field layout, wire messages, errors. numpy and protobuf only."""
