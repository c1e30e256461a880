# make wheels && docker build -f examples/docker/cpu.Dockerfile -t triplex-deploy .
# docker run --rm -v "$PWD:/data" -w /data triplex-deploy predict slides/ --bundle bundle --out out
FROM python:3.12-slim
RUN --mount=type=bind,source=dist,target=/dist \
    pip install --no-cache-dir "$(ls /dist/triplex_deploy-*cp312*.whl)[cpu]"
ENTRYPOINT ["triplex-deploy"]
