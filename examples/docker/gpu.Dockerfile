# make wheels && docker build -f examples/docker/gpu.Dockerfile -t triplex-deploy:gpu .
# docker run --rm --gpus all -v "$PWD:/data" -w /data triplex-deploy:gpu \
#     predict slides/ --bundle bundle --out out --device cuda:all
#
# pycuda is built from source and needs the headers of CUDA, which the second image leaves out.
FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS wheels
RUN apt-get update \
    && apt-get install -y --no-install-recommends g++ python3-dev python3-venv \
    && python3 -m venv /venv
RUN --mount=type=bind,source=dist,target=/dist \
    /venv/bin/pip wheel --no-cache-dir -w /wheels \
    "$(ls /dist/triplex_deploy-*cp312*.whl)[gpu]"

FROM nvidia/cuda:13.0.1-base-ubuntu24.04
RUN apt-get update \
    && apt-get install -y --no-install-recommends python3-venv \
    && rm -rf /var/lib/apt/lists/* \
    && python3 -m venv /venv
RUN --mount=type=bind,from=wheels,source=/wheels,target=/wheels \
    /venv/bin/pip install --no-cache-dir --no-index --find-links /wheels 'triplex-deploy[gpu]'
ENTRYPOINT ["/venv/bin/triplex-deploy"]
