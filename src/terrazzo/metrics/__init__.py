"""Scores: one matrix of pixel counts over the whole data set, and everything that is a function of it, in float64."""

from terrazzo.metrics.boundary import band_width, boundary, boundary_counts, boundary_iou
from terrazzo.metrics.course import SegMetrics
from terrazzo.metrics.matching import ClassMatch, MatchBy, match_classes
from terrazzo.metrics.scores import Absent, Scores, confusion_matrix
from terrazzo.metrics.tally import Protocol, Tally, absent_under, csv_tables

__all__ = [
    "Absent",
    "ClassMatch",
    "MatchBy",
    "Protocol",
    "Scores",
    "SegMetrics",
    "Tally",
    "absent_under",
    "band_width",
    "boundary",
    "boundary_counts",
    "boundary_iou",
    "confusion_matrix",
    "csv_tables",
    "match_classes",
]
