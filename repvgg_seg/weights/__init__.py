"""Weight files: read without running code, found by name, checked, and renamed for the code that takes them."""
