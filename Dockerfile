# The app with its embedded models, as a user without rights. With CUDA: --build-arg TORCH=cu130
FROM python:3.12-slim AS packages
ARG TORCH=cpu
COPY requirements.txt constraints.txt /build/
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir "torch==$(sed -n 's/^torch==//p' /build/constraints.txt)" \
        --index-url "https://download.pytorch.org/whl/${TORCH}" \
    && /venv/bin/pip install --no-cache-dir -r /build/requirements.txt "mcp>=1.30,<2" -c /build/constraints.txt

FROM python:3.12-slim
RUN useradd --create-home --uid 1000 vitdemo
COPY --from=packages /venv /venv
WORKDIR /app
COPY app.py LICENSE README.md ./
COPY vitdemo vitdemo
COPY assets/models assets/models
COPY assets/examples assets/examples
COPY assets/composites.json assets/favicon.svg assets/preview.jpg assets/
# Bytecode is written once, here, not at each start.
RUN /venv/bin/python -m compileall -q vitdemo
USER vitdemo
ENV GRADIO_SERVER_NAME=0.0.0.0 \
    GRADIO_SERVER_PORT=7860 \
    HF_HOME=/home/vitdemo/huggingface \
    PYTHONUNBUFFERED=1 \
    VITDEMO_ADD_MODELS=listed
EXPOSE 7860
HEALTHCHECK --interval=30s --timeout=5s --start-period=60s \
    CMD ["/venv/bin/python", "-c", "import os, urllib.request as r; r.urlopen(f\"http://127.0.0.1:{os.environ['GRADIO_SERVER_PORT']}/gradio_api/app_id\", timeout=4)"]
STOPSIGNAL SIGTERM
CMD ["/venv/bin/python", "app.py"]
