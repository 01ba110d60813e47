# Two stages: the tools that build the packages are not in the image.

FROM python:3.13-slim AS build
WORKDIR /build
RUN python3 -m venv --without-pip /opt/streamer
# Dependencies first, so that a change of the code does not install them again.
COPY pyproject.toml ./
RUN python3 -c 'import tomllib; project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
print(*project["dependencies"], *project["optional-dependencies"]["server"], sep="\n")' \
    > dependencies.txt \
 && pip --python /opt/streamer/bin/python3 install --no-cache-dir -r dependencies.txt
COPY README.md LICENSE ./
COPY seeds seeds
COPY streamer streamer
RUN pip --python /opt/streamer/bin/python3 install --no-cache-dir --no-deps '.[server]'

FROM python:3.13-slim
# Numbers that hosts are unlikely to use, the same in every build: they own the files in the volume.
RUN groupadd --gid 10001 streamer \
 && useradd --uid 10001 --gid streamer --no-create-home --home-dir /nonexistent --shell /usr/sbin/nologin streamer \
 && install -d -o streamer -g streamer /spool \
 && python3 -m pip uninstall --yes --quiet --root-user-action ignore pip
COPY --from=build /opt/streamer /opt/streamer
ENV PATH=/opt/streamer/bin:$PATH \
    PYTHONDONTWRITEBYTECODE=1 \
    API_HOST=0.0.0.0 \
    API_PORT=8080 \
    EXPORT_STORAGE_PATH=/spool
USER 10001:10001
WORKDIR /
VOLUME /spool
EXPOSE 8080
STOPSIGNAL SIGTERM
# A plain socket: each check is a process of its own in the memory of the container, and an HTTP client is larger.
HEALTHCHECK --interval=10s --timeout=5s --start-period=90s --retries=3 CMD ["python3", "-ISc", "\
import os, socket\n\
with socket.create_connection(('127.0.0.1', int(os.environ['API_PORT'])), 3) as server:\n\
    server.sendall(b'GET /health HTTP/1.0\\r\\n\\r\\n')\n\
    raise SystemExit(not server.recv(64).startswith(b'HTTP/1.0 200 '))"]
ENTRYPOINT ["streamer"]
CMD ["serve"]
