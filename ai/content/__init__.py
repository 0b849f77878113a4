"""What an image shows, judged from its pixels alone."""
