"""How faithful a twin is to another world: a run's arm, recorded episodes, or another domain.

evaluations ─► rank.py      the order of the cells by success
pictures ────► images.py    PSNR and SSIM at the same joints and bodies
motions ─────► response.py  distance, delay and gain of the same actions
probes.py sets up the situations, measure.py puts the results together, verdict.py says what they are worth
"""
