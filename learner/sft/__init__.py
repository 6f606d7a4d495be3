"""This package holds supervised fine-tuning."""
