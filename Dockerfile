# The service on the CPU: docker build -t seemore-fast . && docker run --rm -p 127.0.0.1:8000:8000 seemore-fast
FROM python:3.12-slim AS build
# hadolint ignore=DL3008 # whatever the base image's release has
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY . /source
RUN python -m venv /venv \
    && /venv/bin/pip install --no-cache-dir torch --index-url https://download.pytorch.org/whl/cpu \
    && SEEMORE_NATIVE=on /venv/bin/pip install --no-cache-dir "/source[serve]"

FROM python:3.12-slim
COPY --from=build /venv /venv
RUN useradd --uid 1000 --create-home seemore
USER 1000
EXPOSE 8000
ENTRYPOINT ["/venv/bin/seemore-fast", "serve", "--host", "0.0.0.0"]
CMD ["--model", "t-x4"]
