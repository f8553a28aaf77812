"""The node as a process, with an estimator that answers one image and then only hangs or fails:
`python -m test.faulty_node_process hang|fail [--ros-args …]`."""

from __future__ import annotations

import sys

from multihmr2_ros.ros.node import main
from test.faulty_estimator import ILLEGAL, Factory

if __name__ == "__main__":
    program, fault, *arguments = sys.argv
    faults = [None, 3600.0] if fault == "hang" else [None, *[ILLEGAL] * 1000]
    sys.exit(main([program, *arguments], Factory(*faults)))
