"""Floor 2: weight files, read without running code, named, checked and translated between dialects."""
