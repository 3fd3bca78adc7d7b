# The stack on ROS 2 Jazzy, on the CPU: docker build -f docker/cpu.Dockerfile -t sparseoccvla . && docker run --shm-size=512m sparseoccvla demo
FROM ros:jazzy-ros-base
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN apt-get update && apt-get install -y --no-install-recommends build-essential cmake git python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/sparseoccvla_ros
COPY . .
# Sets up .venv on top of this ROS, and builds the messages; every later call starts at once.
RUN source /opt/ros/jazzy/setup.bash && ./run env true
ENTRYPOINT ["/ros_entrypoint.sh", "./run"]
CMD ["doctor"]
