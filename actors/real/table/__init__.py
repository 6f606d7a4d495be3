"""This room is what a person has at the table: hands that place and judge, a terminal to be asked at, two cameras.

    robot ── go on? place! solved? ──► hands ──► terminal ──► operator        hands of the stand-in: its lab
    robot ◄── side and wrist image ── cameras ◄── checks: repeated, blank, old, swapped
      └─► guard, both images ─► proposing ─► "solved? proposed: yes" ─► a person may overrule it

Motion rests on fresh answers: the terminal takes none that was typed before its question could be read.
"""
