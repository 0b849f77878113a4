"""Settings, errors and redaction: what every other package may use."""
