"""What evaluate.py makes of outputs and labels: the report, its pictures and files."""
