# The stack on an NVIDIA GPU, with ROS 2 from wheels: docker build -f docker/cuda.Dockerfile -t sparseoccvla:cuda . && docker run --gpus all --shm-size=512m sparseoccvla:cuda demo
FROM nvidia/cuda:12.8.1-base-ubuntu24.04
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN apt-get update && apt-get install -y --no-install-recommends build-essential cmake git python3-dev python3-venv \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /opt/sparseoccvla_ros
COPY . .
# Torch brings its own CUDA libraries; the driver comes from the host.
RUN ./run env true
ENTRYPOINT ["./run"]
CMD ["doctor"]
