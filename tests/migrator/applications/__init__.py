"""Applications that people run, moved for real under their users' hands."""
