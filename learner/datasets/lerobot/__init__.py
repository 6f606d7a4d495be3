"""This package reads and writes LeRobotDataset v3.0."""
