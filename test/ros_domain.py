"""The ROS domain of this test process: nobody else on this machine is on it."""

from __future__ import annotations

import os

from multihmr2_ros.ros.domain import isolation, reserve_domain

DOMAIN_ID = reserve_domain()
ENVIRONMENT = isolation(DOMAIN_ID)
# For processes of this one, and for contexts of rclpy in it, which name the domain themselves.
os.environ.update(ENVIRONMENT)
