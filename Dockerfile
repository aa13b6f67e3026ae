FROM python:3.11-slim-bookworm
RUN apt-get update \
    && apt-get install --yes --no-install-recommends make procps \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /riffle
COPY . .
RUN make setup
CMD ["make", "run"]
