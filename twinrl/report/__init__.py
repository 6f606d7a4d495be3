"""`report.html`: everything a run shows, in one file that needs nothing else.

    eval/*.jsonl, real_rl/episodes.jsonl ──► episodes ──► statistics ─┐
    metrics.jsonl, */metrics.jsonl, stages.jsonl ────────────────────┼─► sections ─► template.html ─► report.html
    scene/report.json, images/*.png, settings.json ────────────────┘       ▲
                                                             figures (SVG) ──┘

Numbers are counted from the files, never rounded up into claims: every rate stands beside its count and its Wilson 95 %
interval, and an input that is missing is named as missing.

    twinrl.report.page.write_report(run_dir) -> Path
"""
