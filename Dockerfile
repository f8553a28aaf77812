# ROS 2 Jazzy with the node, following the steps of docs/getting-started.md ("With ROS 2").
# This file has not been built by its authors, because their machine cannot run containers.
#   docker build -t multihmr2_ros .
#   docker run --rm -it --net=host --ipc=host --gpus all multihmr2_ros
FROM ros:jazzy-ros-base

SHELL ["/bin/bash", "-c"]
RUN apt-get update \
    && apt-get install -y --no-install-recommends \
        python3-venv python3-dev python3-colcon-common-extensions python3-rosdep \
    && rm -rf /var/lib/apt/lists/*

# The packages of rosdep depend on package.xml only, so that this layer stays cached when the code changes.
WORKDIR /ros2_ws
COPY package.xml src/multihmr2_ros/package.xml
RUN apt-get update \
    && { [[ -f /etc/ros/rosdep/sources.list.d/20-default.list ]] || rosdep init; } \
    && rosdep update --rosdistro jazzy \
    && rosdep install --from-paths src --ignore-src -y \
    && rm -rf /var/lib/apt/lists/*

COPY . src/multihmr2_ros
RUN python3 -m venv --system-site-packages .venv \
    && source .venv/bin/activate \
    && pip install --no-cache-dir ./src/multihmr2_ros 'numpy<2'
RUN source /opt/ros/jazzy/setup.bash \
    && source .venv/bin/activate \
    && colcon build --packages-select multihmr2_ros

# The body model's cache takes 1 GB. It is built once here for all users, instead of at each start.
ENV ANNY_CACHE_DIR=/opt/anny
RUN source /opt/ros/jazzy/setup.bash \
    && source .venv/bin/activate \
    && source install/setup.bash \
    && python3 -c 'from multihmr2_ros.body import Body; Body("full"), Body("low")' \
    && chmod -R a+rX /opt/anny

RUN printf '%s\n' '#!/bin/bash' 'set -e' 'source /opt/ros/jazzy/setup.bash' 'source /ros2_ws/.venv/bin/activate' \
    'source /ros2_ws/install/setup.bash' 'exec "$@"' > /entrypoint.sh \
    && chmod +x /entrypoint.sh
# After SIGTERM, Docker's default, `ros2 launch` ends without stopping the node.
STOPSIGNAL SIGINT
ENTRYPOINT ["/entrypoint.sh"]
CMD ["ros2", "launch", "multihmr2_ros", "perception.launch.py"]
