#!/bin/sh
# Replaces the replicas of `service` one after the other with containers of the current image and
# settings. Run it in the directory in which you run docker compose, with the profile in
# COMPOSE_PROFILES. Behind the proxy, no request fails during the restart.
set -eu

containers() {
    docker ps --all --quiet --filter label=com.docker.compose.service=service \
        --filter "label=com.docker.compose.project=$project"
}

wait_until_ready() {
    until docker exec "$1" python -I -S /app/service/healthcheck.py 2> /dev/null; do
        seconds=$((seconds + 1))
        if [ "$seconds" -gt "${READY_SECONDS:-300}" ]; then
            echo "$1 is not ready; the other replicas were not replaced. See: docker logs $1" >&2
            exit 1
        fi
        sleep 1
    done
}

project=${COMPOSE_PROJECT_NAME:-$(basename "$PWD" | tr '[:upper:]' '[:lower:]' | tr -cd 'a-z0-9_-')}
old=$(containers)
count=$(echo "$old" | wc -w)
if [ "$count" -lt 2 ]; then
    echo "expected two replicas or more of the project $project, found $count." \
        "Set COMPOSE_PROJECT_NAME if the project has another name." >&2
    exit 1
fi
docker compose build service
for container in $old; do
    docker stop -t "${STOP_SECONDS:-60}" "$container" > /dev/null
    docker rm "$container" > /dev/null
    docker compose up --detach --no-deps --no-recreate --scale "service=$count" service
    seconds=0
    for replica in $(containers); do
        wait_until_ready "$replica"
    done
    echo "replaced $container"
done
