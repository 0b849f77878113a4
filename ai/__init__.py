"""Models and arrays: packages, preprocessing, sessions and postprocessing. No DICOM in here."""
