"""This package starts and observes replay servers."""
