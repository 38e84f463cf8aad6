# docker build -t ldae . && mkdir -p outputs && docker run --rm --gpus all --user "$(id -u):$(id -g)" \
#   --shm-size 4g -v "$PWD/outputs:/data/outputs" ldae demo
# PyTorch's wheels bring CUDA; the machine gives the driver (nvidia-container-toolkit). Without a GPU leave
# --gpus all out. Loaders hand batches over in shared memory, of which Docker gives 64 MB. There is no C++
# compiler, without which model.init_args.compiled does nothing but say so. scripts/check_dockerfile.sh runs
# the steps below without Docker; the image itself has not been built.
FROM python:3.12-slim

# Options for pip, such as an index that holds a CPU build of torch.
ARG PIP_OPTIONS=""
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility

WORKDIR /opt/ldae
COPY pyproject.toml README.md LICENSE ./
COPY ldae ldae
COPY configs configs
RUN pip install $PIP_OPTIONS '.[conformal,dicom]'
RUN mkdir -p /data/outputs && chmod -R a+rwX /data

ENV HOME=/data
USER 1000:1000
WORKDIR /data
ENTRYPOINT ["ldae"]
CMD ["--help"]
