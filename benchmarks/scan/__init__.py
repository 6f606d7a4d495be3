"""`python -m benchmarks.scan.gpu` compares a scan with gsplat's own training recipe."""
