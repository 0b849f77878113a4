"""The coded concepts that results use, in one table.

Each constant carries its source: the context group (CID) or template (TID) of PS3.16 that names
it, or the coding scheme alone where a model may choose freely.
"""

from __future__ import annotations

from typing import Final

from pydicom.sr.coding import Code

from ai.types import Code as PlainCode

# PS3.16 CID 7021, Measurement Report Document Titles
IMAGING_MEASUREMENT_REPORT: Final = Code("126000", "DCM", "Imaging Measurement Report")

# CID 7020, Document Titles
IMAGING_REPORT: Final = Code("18748-4", "LN", "Diagnostic imaging report")

# TID 1500, Measurement Report
PROCEDURE_REPORTED: Final = Code("121058", "DCM", "Procedure reported")
IMAGING_MEASUREMENTS: Final = Code("126010", "DCM", "Imaging Measurements")
QUALITATIVE_EVALUATIONS: Final = Code("C0034375", "UMLS", "Qualitative Evaluations")

# TID 1204, Language of Content Item and Descendants; CID 5000, Languages
ENGLISH: Final = Code("en-US", "RFC5646", "English (United States)")

# TID 1002, Observer Context; CID 270, Observer Type
OBSERVER_TYPE: Final = Code("121005", "DCM", "Observer Type")
DEVICE: Final = Code("121007", "DCM", "Device")
DEVICE_OBSERVER_UID: Final = Code("121012", "DCM", "Device Observer UID")
DEVICE_OBSERVER_NAME: Final = Code("121013", "DCM", "Device Observer Name")

# TID 2010, Key Object Selection; CID 7010, Key Object Selection Document Title
OF_INTEREST: Final = Code("113000", "DCM", "Of Interest")
KEY_OBJECT_DESCRIPTION: Final = Code("113012", "DCM", "Key Object Description")

# TID 1600 to 1602, Image Library
IMAGE_LIBRARY: Final = Code("111028", "DCM", "Image Library")
IMAGE_LIBRARY_GROUP: Final = Code("126200", "DCM", "Image Library Group")
MODALITY: Final = Code("121139", "DCM", "Modality")
STUDY_DATE: Final = Code("111060", "DCM", "Study Date")
FRAME_OF_REFERENCE: Final = Code("112227", "DCM", "Frame of Reference UID")
PIXEL_DATA_ROWS: Final = Code("110910", "DCM", "Pixel Data Rows")
PIXEL_DATA_COLUMNS: Final = Code("110911", "DCM", "Pixel Data Columns")

# TID 1410, 1411, 1419 and 1501, the measurement groups
MEASUREMENT_GROUP: Final = Code("125007", "DCM", "Measurement Group")
TRACKING_IDENTIFIER: Final = Code("112039", "DCM", "Tracking Identifier")
TRACKING_UID: Final = Code("112040", "DCM", "Tracking Unique Identifier")
FINDING: Final = Code("121071", "DCM", "Finding")
FINDING_CATEGORY: Final = Code("276214006", "SCT", "Finding category")
FINDING_SITE: Final = Code("363698007", "SCT", "Finding Site")
IMAGE_REGION: Final = Code("111030", "DCM", "Image Region")
REFERENCED_SEGMENT: Final = Code("121191", "DCM", "Referenced Segment")
REFERENCED_SEGMENTATION_FRAME: Final = Code("121214", "DCM", "Referenced Segmentation Frame")
SOURCE_SERIES_FOR_SEGMENTATION: Final = Code("121232", "DCM", "Source series for segmentation")
SOURCE_IMAGE_FOR_SEGMENTATION: Final = Code("121233", "DCM", "Source image for segmentation")

# TID 4019, Algorithm Identification
ALGORITHM_FAMILY: Final = Code("111000", "DCM", "Algorithm Family")
ALGORITHM_NAME: Final = Code("111001", "DCM", "Algorithm Name")
ALGORITHM_VERSION: Final = Code("111003", "DCM", "Algorithm Version")

# CID 6048, CAD general: how sure; TID 1500 asks for nothing here, TID 4006 uses percent
CERTAINTY_OF_FINDING: Final = Code("111012", "DCM", "Certainty of Finding")
# CID 6047, CAD Processing and Findings Summary
FINDINGS_SUMMARY: Final = Code("111017", "DCM", "CAD Processing and Findings Summary")
WITHOUT_FINDINGS: Final = Code("111241", "DCM", "All algorithms succeeded; without findings")
WITH_FINDINGS: Final = Code("111242", "DCM", "All algorithms succeeded; with findings")
# CID 12101 and wherever a remark is wanted
COMMENT: Final = Code("121106", "DCM", "Comment")

# CID 7203, Image Derivation; CID 7202, Source Image Purposes of Reference
SEGMENTATION: Final = Code("113076", "DCM", "Segmentation")
UNSPECIFIED_METHOD: Final = Code("112187", "DCM", "Unspecified method of calculation")
SOURCE_IMAGE: Final = Code("121322", "DCM", "Source image for image processing operation")
# PS3.3 C.8.20.2: the segment of a label map that is none
BACKGROUND: Final = Code("125040", "DCM", "Background")
# PS3.3 A.75.5.1: what the values of a parametric map are
QUANTITY: Final = Code("246205007", "SCT", "Quantity")
# CID 7005, Contributing Equipment Purposes of Reference
PROCESSING_EQUIPMENT: Final = Code("109102", "DCM", "Processing Equipment")
# CID 7162, Surface Processing Algorithm Families, by a model's `basis`; it is extensible and has no
# entry for fixed rules, which are no artificial intelligence.
ALGORITHM_FAMILIES: Final = {
    "trained": Code("123110", "DCM", "Artificial Intelligence"),
    "rules": Code("RULES", "99MEDAI", "Fixed rules, not trained"),
}

# CID 7472, Generic Linear and Area Measurements: of the outline that a planar group adds
AREA: Final = Code("42798000", "SCT", "Area")

# CID 244, Laterality
LATERALITIES: Final = (
    Code("7771000", "SCT", "Left"),
    Code("24028007", "SCT", "Right"),
    Code("51440002", "SCT", "Right and left"),
    Code("66459002", "SCT", "Unilateral"),
)

# How grave a finding of that label would be, by thirds of the weight that its model gives it; the
# concept is SNOMED CT's, the values its qualifiers.
SEVERITY: Final = Code("246112005", "SCT", "Severity")
SEVERITIES: Final = {
    "low": Code("62482003", "SCT", "Low"),
    "medium": Code("255508009", "SCT", "Medium"),
    "high": Code("75540009", "SCT", "High"),
}

# TID 2000, Basic Diagnostic Imaging Report; CID 7000, Diagnostic Imaging Report Document Titles;
# CID 7001, Diagnostic Imaging Report Headings; CID 7002, Diagnostic Imaging Report Elements
DIAGNOSTIC_REPORT: Final = Code("18748-4", "LN", "Diagnostic imaging report")
FINDINGS: Final = Code("121070", "DCM", "Findings")
IMPRESSIONS: Final = Code("121072", "DCM", "Impressions")
IMPRESSION: Final = Code("121073", "DCM", "Impression")
RECOMMENDATIONS: Final = Code("121074", "DCM", "Recommendations")
RECOMMENDATION: Final = Code("121075", "DCM", "Recommendation")

# UCUM
PERCENT: Final = Code("%", "UCUM", "Percent")
PIXELS: Final = Code("{pixels}", "UCUM", "Pixels")
SQUARE_MILLIMETRE: Final = Code("mm2", "UCUM", "Square millimeter")

# CID 29, Acquisition Modality
MODALITIES: Final = {
    "CR": Code("CR", "DCM", "Computed Radiography"),
    "CT": Code("CT", "DCM", "Computed Tomography"),
    "DX": Code("DX", "DCM", "Digital Radiography"),
    "MG": Code("MG", "DCM", "Mammography"),
    "MR": Code("MR", "DCM", "Magnetic Resonance"),
    "NM": Code("NM", "DCM", "Nuclear Medicine"),
    "OT": Code("OT", "DCM", "Other Modality"),
    "PT": Code("PT", "DCM", "Positron emission tomography"),
    "US": Code("US", "DCM", "Ultrasound"),
    "XA": Code("XA", "DCM", "X-Ray Angiography"),
}

# CID 100, Quantitative Diagnostic Imaging Procedures: what stands in when the source names none
PROCEDURES: Final = {
    "CR": Code("43468-8", "LN", "XR unspecified body region"),
    "CT": Code("25045-6", "LN", "CT unspecified body region"),
    "DX": Code("43468-8", "LN", "XR unspecified body region"),
    "MR": Code("25056-3", "LN", "MRI unspecified body region"),
    "NM": Code("49118-3", "LN", "NM unspecified body region"),
    "PT": Code("44136-0", "LN", "PET unspecified body region"),
}
IMAGING_PROCEDURE: Final = Code("363679005", "SCT", "Imaging procedure")


def coded(code: PlainCode) -> Code:
    """The concept of a model's answer as pydicom and highdicom take it."""
    return Code(code.value, code.scheme, code.meaning)
