"""What search_hyperparams.py is made of: configurations, the study, the processes that train."""
