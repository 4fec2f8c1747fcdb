# Debian's Python, the pinned dependencies and havip: no shell, no package manager, no compiler.
#
# Nothing of BASE reaches the image: any Debian 12 gives the same files. The image's programs are
# unpacked, not run, so that every machine can build it for every architecture.
#
# Behind a proxy that inspects TLS: --secret id=ca,src=FILE, the CA certificates to trust (PEM).
ARG BASE=docker.io/library/debian:bookworm-slim

FROM --platform=$BUILDPLATFORM ${BASE} AS runtime
RUN apt-get --quiet=2 update && \
    DEBIAN_FRONTEND=noninteractive apt-get install --quiet=2 --yes --no-install-recommends \
      binutils ca-certificates python3-pip >/dev/null
WORKDIR /build
COPY ci/image/unpack-debian ci/image/debian-packages ci/image/
ARG TARGETARCH
RUN ci/image/unpack-debian "$TARGETARCH" /runtime
COPY requirements/ requirements/
COPY ci/image/install-requirements ci/image/seal ci/image/
RUN --mount=type=secret,id=ca ci/image/install-requirements "$TARGETARCH" /runtime

FROM runtime AS havip
COPY pyproject.toml README.md LICENSE ./
COPY app/ app/
COPY ci/image/ ci/image/
ARG TARGETARCH
RUN --mount=type=secret,id=ca ci/image/install-havip "$TARGETARCH" /runtime /havip

FROM scratch
# Two layers: a new release of havip is a small download.
COPY --from=runtime /runtime /
COPY --from=havip /havip /
ENV PATH=/usr/bin
# The numbers need no /etc/passwd. Root, since a pod has no other way to capabilities.
USER 0:0
# The kernel drops what PID 1 does not handle, and Python handles nothing for its first tens of
# milliseconds: tini does after 0.2 ms. A stop as asked is no error, whenever it comes (143).
ENTRYPOINT ["/usr/bin/tini", "-e", "143", "--", "/usr/bin/havip"]
CMD ["run"]
LABEL org.opencontainers.image.title="havip" \
      org.opencontainers.image.description="A virtual IP address that always reaches a healthy Kubernetes node" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0"
