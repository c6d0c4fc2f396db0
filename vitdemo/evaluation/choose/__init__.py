"""Which model for these photos: accuracy, time and size of several models on a user's own data, and why they differ.

choose(pipeline, specs, ChooseRequest(data=(Path("photos.tar"),))) -> Choice
see:    coordinates, neighbours, confusions, disagreements, similarity, clusters, near_duplicates, outliers of a Choice
files:  a Choice as JSON, CSV, HTML; labels; a probe as a model folder
"""

from vitdemo.evaluation.choose.files import (
    choice_csv,
    choice_json,
    labels_csv,
    labels_json,
    photos_csv,
    read_labels,
)
from vitdemo.evaluation.choose.probe_folder import write_probe
from vitdemo.evaluation.choose.report import report_html
from vitdemo.evaluation.choose.run import choose, relabelled
from vitdemo.evaluation.choose.see import (
    cluster_agreement,
    clusters,
    confusions,
    coordinates,
    disagreements,
    labels_of,
    near_duplicates,
    neighbours,
    opened,
    outliers,
    similarity,
)
from vitdemo.evaluation.choose.store import FeatureStore
from vitdemo.evaluation.choose.types import (
    Accuracy,
    Answers,
    Candidate,
    Choice,
    ChooseRequest,
    Clustering,
    Confusion,
    Disagreement,
    Localization,
    Neighbour,
    PhotoEntry,
    Progress,
    Projection,
    Verdict,
)

__all__ = [
    "Accuracy",
    "Answers",
    "Candidate",
    "Choice",
    "ChooseRequest",
    "Clustering",
    "Confusion",
    "Disagreement",
    "FeatureStore",
    "Localization",
    "Neighbour",
    "PhotoEntry",
    "Progress",
    "Projection",
    "Verdict",
    "choice_csv",
    "choice_json",
    "choose",
    "cluster_agreement",
    "clusters",
    "confusions",
    "coordinates",
    "disagreements",
    "labels_csv",
    "labels_json",
    "labels_of",
    "near_duplicates",
    "neighbours",
    "opened",
    "outliers",
    "photos_csv",
    "read_labels",
    "relabelled",
    "report_html",
    "similarity",
    "write_probe",
]
