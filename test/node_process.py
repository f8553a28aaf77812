"""The node as a process, with an estimator of known output that takes the given time:
`python -m test.node_process SECONDS [--ros-args …]`."""

from __future__ import annotations

import sys

from multihmr2_ros.ros.node import main
from test.stand_in_estimator import StandInEstimator

if __name__ == "__main__":
    program, seconds_s, *arguments = sys.argv
    sys.exit(main([program, *arguments], lambda parameters: StandInEstimator(parameters, float(seconds_s))))
