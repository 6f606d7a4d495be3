"""This room compares the method with what it does without: practice on the arms of drawn labs."""
