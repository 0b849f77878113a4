"""Health, metrics and the API of feedback over HTTP."""
