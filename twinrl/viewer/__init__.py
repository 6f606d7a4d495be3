"""This room shows a scene in the browser, with viser.

scene folder, splat file ─► shapes.py (splats, table, cameras, regions, objects) ─┐
task, robot ─────────────► robot.py  (bodies as splats, a slider per joint) ──────┴─► viser, on loopback ─► browser
"""
