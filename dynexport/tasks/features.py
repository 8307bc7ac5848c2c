"""Maps of features, which detection and segmentation heads read."""

from dynexport.tasks import Task

FEATURES = Task(
    "features",
    help="the maps of a Swin's or a ConvNeXt's four stages, feat_0 ... feat_3",
    output="feat_0",
    gives="maps of features",
)
TASKS = (FEATURES,)
