"""Associations: what comes in over DICOM and is made durable, and what goes out."""
