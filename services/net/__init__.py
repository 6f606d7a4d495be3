"""This package holds what all gRPC services share: addresses, TLS, tokens, deadlines."""
