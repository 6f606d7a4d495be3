"""Everything that acts: twin actors on Ray (`sim`), the arm (`real`), people and their devices (`human`)."""
