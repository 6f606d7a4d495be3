"""This room measures how far the limits of the arm hold."""
