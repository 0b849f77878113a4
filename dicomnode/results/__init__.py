"""The DICOM objects that tell an answer, and the gate that proves them before they leave."""
