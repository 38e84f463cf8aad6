# docker build -t ldae . && docker run --rm -v "$PWD/outputs:/data/outputs" ldae demo
FROM python:3.12-slim

# Options for pip, such as an index that holds a CPU build of torch.
ARG PIP_OPTIONS=""
ENV PIP_NO_CACHE_DIR=1 PYTHONUNBUFFERED=1

WORKDIR /opt/ldae
COPY pyproject.toml README.md LICENSE ./
COPY ldae ldae
COPY configs configs
RUN pip install $PIP_OPTIONS .

RUN useradd --create-home ldae && mkdir -p /data/outputs && chown -R ldae /data
USER ldae
WORKDIR /data
ENTRYPOINT ["ldae"]
CMD ["--help"]
