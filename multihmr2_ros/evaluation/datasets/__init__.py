"""Public data sets as their users download them. Nothing of them is bundled."""

MSCOCO, POSETRACK, MOT, THREEDPW, PANOPTIC = "mscoco", "posetrack21", "mot17", "3dpw", "cmu-panoptic"
EMDB, HI4D, HARMONY4D, VIDEOS = "emdb", "hi4d", "harmony4d", "calibrated-videos"
DATASETS = (MSCOCO, POSETRACK, MOT, THREEDPW, EMDB, HI4D, HARMONY4D, PANOPTIC, VIDEOS)
