# One image for every process of docker-compose.yml. PIP_ARGS tells pip where PyTorch's CPU build is (README.md).
FROM python:3.11-slim-bookworm
WORKDIR /app
ARG PIP_ARGS=""
COPY requirements.lock tools/setup.py ./
RUN mkdir tools && mv setup.py tools/ && python tools/setup.py $PIP_ARGS --no-cache-dir
COPY . .
RUN useradd --system coatcheck && install -d -m 700 -o coatcheck /data
ENV PATH=/app/.venv/bin:$PATH PYTHONUNBUFFERED=1 COATCHECK_HOME=/data
USER coatcheck
VOLUME /data
EXPOSE 8000
CMD ["python", "-m", "coatcheck", "run"]
